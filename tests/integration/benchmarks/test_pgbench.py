"""pgbench is compared with the service, so it must write the same."""

import asyncpg

from tests.benchmarks import pgbench
from tests.benchmarks.stage import Database
from tests.support.service.api import Link, seed, serving

# Of each row, what was written: the values that are alike, and which of the others there are.
WRITTEN = """
SELECT
    d.version, d.revision, d.updated_at > d.created_at AS updated,
    l.entity_type, l.entity_id, l.role, l.created_at IS NOT NULL AS created, l.deleted_at,
    o.event_type, o.key, octet_length(o.payload) AS bytes, o.event_id IS NOT NULL AS identified,
    o.traceparent
FROM documents AS d
JOIN document_links AS l ON l.workspace_id = d.workspace_id AND l.document_id = d.id
JOIN outbox AS o ON o.key = d.workspace_id || '/' || d.id
"""
FORGET = (
    "TRUNCATE outbox; DELETE FROM document_links; UPDATE documents SET version = 0, revision = 1"
)


async def test_writes_what_the_service_writes(database: str) -> None:
    """For the same link pgbench and the service write the same rows, and a payload of the same length."""
    connection = await asyncpg.connect(database)
    try:
        async with serving(database) as api:
            await seed(connection, 1, 1)
            await api.link("doc_1", Link("deal", "deal_1", "signed"))
        by_service = await connection.fetch(WRITTEN)
        workspace = str(await connection.fetchval("SELECT id FROM workspaces"))
        await connection.execute(FORGET)
        once = ("--transactions=1", "--define=documents=1", "--define=entities=1")
        pgbench.run(Database(database, workspace, api.key), by_service[0]["bytes"], *once)
        assert len(by_service) == 1
        assert await connection.fetch(WRITTEN) == by_service
    finally:
        await connection.close()
