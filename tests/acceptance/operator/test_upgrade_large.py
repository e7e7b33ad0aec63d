"""The migration of a large database of version 0.1, beside writers that work as its programs do."""

import asyncio
import logging
from pathlib import Path

import asyncpg
import pytest

from service.store.database import Database
from service.store.migrations.apply import migrate
from service.store.migrations.version import VERSION
from tests.support.parts.shared import execute
from tests.support.releases.history import schema_of
from tests.support.releases.million import DOCUMENTS, FILL, LINKS_EACH, Writers
from tests.support.waiting import until

log = logging.getLogger(__name__)

LONGEST_WAIT_MS = 200
"""No statement of a writer waits longer than this for a lock."""
WRITES = 400
COUNT = "SELECT count(*) FROM document_links"
# As of a careless release: it locks the links, and then takes its time.
SLOW_STEP = """-- A step that holds up writers
-- oldest programs: 1
-- lock: document_links, ACCESS EXCLUSIVE, momentary
LOCK TABLE document_links;
SELECT pg_sleep(1);
"""


@pytest.mark.timeout(600)
async def test_no_writer_waits_for_the_migration(empty_database: str, tmp_path: Path) -> None:
    """With a million links and a full ring, no lock keeps a writer waiting; a slow step would."""
    await execute(empty_database, schema_of(1), FILL)
    writers = Writers(empty_database, count=4, lock_timeout_ms=LONGEST_WAIT_MS)

    async def written() -> bool:
        return writers.written >= WRITES

    async def migrated(*steps: Path) -> str:
        async with Database(empty_database, pool_size=2) as database:
            return await migrate(database, *steps)

    async with writers.writing():
        await until(written)
    without_s = writers.longest_s
    async with writers.writing():
        assert await migrated() == f"schema 1 is now schema {VERSION}"
        await until(written)
    log.info("longest write: %.3f s beside it, %.3f s without", writers.longest_s, without_s)
    assert writers.waited_too_long == 0
    connection = await asyncpg.connect(empty_database)
    assert await connection.fetchval(COUNT) > DOCUMENTS * LINKS_EACH + WRITES
    await connection.close()

    (tmp_path / f"{VERSION + 1:04}_slow.sql").write_text(SLOW_STEP)
    async with writers.writing():
        await asyncio.gather(migrated(tmp_path), until(written))
    assert writers.waited_too_long > 0
