"""When each key was last used: written to the hour, beside the requests."""

import time
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from types import SimpleNamespace

import asyncpg
import pytest

from service.core.errors import Unavailable
from service.edge.gate import key_uses
from service.edge.gate.key_uses import HOUR_S, KeyUses
from service.edge.gate.keys import KeyRing
from service.store.database import Database
from service.store.keys import list_keys, record_uses
from tests.support.service.api import new_key, serving
from tests.support.waiting import until


@pytest.fixture
async def pool(database: str) -> AsyncIterator[Database]:
    """Yield the service's pool."""
    async with Database(database, pool_size=2) as pool:
        yield pool


async def use(ring: KeyRing, key: str) -> None:
    """Authenticate a request with the key."""
    await ring.authenticate({b"x-api-key": key.encode()})


async def last_used(pool: Database) -> list[datetime | None]:
    """Return the last use of each key, in the order of the list."""
    return [key.last_used_at for key in await list_keys(pool, None)]


def hour(offset_h: int = 0) -> datetime:
    """Return the beginning of the present hour, or of one before or after it."""
    now = datetime.now(UTC) + timedelta(hours=offset_h)
    return now.replace(minute=0, second=0, microsecond=0)


async def test_the_service_records_the_hour_of_a_use(
    database: str, pool: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A key that a request has used has the present hour; another one has none."""
    monkeypatch.setattr(key_uses, "RECORD_INTERVAL_S", 0.02)
    before = hour()
    async with serving(database) as api:
        await new_key(database)
        assert (await api.client.get("/v1/documents/doc_1/links")).status_code == 404

        async def recorded() -> bool:
            return any(await last_used(pool))

        await until(recorded)
    used, unused = await last_used(pool)
    assert (used in {before, hour()}, unused) == (True, None)


async def test_a_key_is_written_once_an_hour(
    database: str, pool: Database, connection: asyncpg.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In the same hour nothing is written; in the next one, a use is, and only then."""
    key, ring = await new_key(database), KeyRing(pool)
    uses = KeyUses(pool, ring)
    await use(ring, key)
    await uses.record()
    first = await last_used(pool)
    await connection.execute("ALTER TABLE api_key_uses RENAME TO away")
    await use(ring, key)
    await uses.record()
    await connection.execute("ALTER TABLE away RENAME TO api_key_uses")
    clock = SimpleNamespace(time=lambda: time.time() + HOUR_S, monotonic=time.monotonic)
    monkeypatch.setattr(key_uses, "time", clock)
    await uses.record()
    assert first[0] is not None
    assert await last_used(pool) == [first[0] + timedelta(hours=1)]
    await ring.aclose()


async def test_the_latest_use_of_all_processes_stays(
    database: str, pool: Database, connection: asyncpg.Connection
) -> None:
    """A process that knows an older use changes nothing; a key that was removed is skipped."""
    await new_key(database)
    key_id = await connection.fetchval("SELECT id FROM api_keys")
    await record_uses(pool, {key_id: hour().timestamp(), "key_removed": 0.0})
    await record_uses(pool, {key_id: hour(-1).timestamp()})
    assert await last_used(pool) == [hour()]
    await connection.execute("DELETE FROM api_keys")
    assert await connection.fetchval("SELECT count(*) FROM api_key_uses") == 0


async def test_a_role_without_the_right_serves(
    database: str, connection: asyncpg.Connection
) -> None:
    """Without rights to the table keys are valid, their uses fail, and the list does not know them."""
    key = await new_key(database)
    await connection.execute("CREATE ROLE without_uses LOGIN")
    await connection.execute("GRANT SELECT ON api_keys, workspaces TO without_uses")
    url = database.replace("postgres@", "without_uses@")
    async with Database(url, pool_size=2) as pool:
        ring = KeyRing(pool)
        await use(ring, key)
        with pytest.raises(Unavailable):
            await KeyUses(pool, ring).record()
        assert await last_used(pool) == [None]
        await ring.aclose()
    await connection.execute("DROP OWNED BY without_uses; DROP ROLE without_uses")
