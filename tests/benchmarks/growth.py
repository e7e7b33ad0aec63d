"""One caller in a workspace with millions of links, and in one with a thousand."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import asyncpg

from deploy.local import programs
from deploy.local.process import LocalError, say
from tests.benchmarks.figures import Figures
from tests.benchmarks.measurement import Round
from tests.benchmarks.stage import ENTITIES, SERVICE, Database, Stage, checkpoint
from tests.benchmarks.wrk import Caller, load

FEW = 1_000
PER_DOCUMENT = 5
WARM_UP_S = 1
# The links' ends are known to be there: without the foreign keys' triggers it is done in a minute.
TRUSTED = "SET session_replication_role = replica; SET synchronous_commit = off"
DOCUMENTS = """
INSERT INTO documents (workspace_id, id, version, revision)
SELECT $1::uuid, 'full_' || n, $3::int, $3::int + 1
FROM generate_series(1, $2::int) AS n
"""
LINKS = """
INSERT INTO document_links (workspace_id, document_id, id, entity_type, entity_id, created_at)
SELECT $1::uuid, 'full_' || d, gen_random_uuid(), 'deal', 'deal_' || 1 + (d * 7 + n) % $4::int, now()
FROM generate_series(1, $2::int) AS d, generate_series(1, $3::int) AS n
"""


@asynccontextmanager
async def measurement(stage: Stage) -> AsyncIterator[Round]:
    """Yield what lists and links in the one and in the other."""
    say(f"filling a workspace with {stage.scale.links} links …")
    workspaces = {
        "few": await _fill(stage, "bench_few", FEW),
        "many": await _fill(stage, "bench_many", stage.scale.links),
    }
    full = {"few": FEW // PER_DOCUMENT, "many": stage.scale.links // PER_DOCUMENT}

    async def one_round() -> Figures:
        figures: Figures = {}
        for size, database in workspaces.items():
            figures |= await _measure(stage, database, size, full[size])
        return figures

    yield one_round


async def _fill(stage: Stage, name: str, links: int) -> Database:
    database = await stage.make_database(name)
    documents = links // PER_DOCUMENT
    connection = await asyncpg.connect(database.dsn)
    try:
        await connection.execute(TRUSTED)
        await connection.execute(DOCUMENTS, database.workspace, documents, PER_DOCUMENT)
        await connection.execute(LINKS, database.workspace, documents, PER_DOCUMENT, ENTITIES)
        await connection.execute("VACUUM ANALYZE")
    finally:
        await connection.close()
    return database


async def _measure(stage: Stage, database: Database, size: str, full: int) -> Figures:
    """List the links of full documents, and link others, over one connection."""
    await checkpoint(database.dsn)
    seconds = max(1, stage.scale.seconds // 2)
    figures: Figures = {}
    with programs.service(database.dsn, stage.logs, **SERVICE) as service:
        for call in ("list", "link"):
            caller = Caller(service.url, database.key, 1, call, {"FULL": full})
            load(caller, WARM_UP_S)
            done = load(caller, seconds)
            if done.failed:
                raise LocalError(f"{done.failed} calls failed\n{service.log_tail()}")
            figures |= done.figures(f"growth.{size}.{call}")
    return figures
