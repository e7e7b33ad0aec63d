"""The outbox as a writer sees it: links and events, written by the schema's own functions."""

import json
import random
from uuid import UUID, uuid4

import asyncpg

WORKSPACE = UUID("0193e6c4-0000-7000-8000-000000000001")
TYPE = "deal"

READ = "SELECT * FROM lock_and_read($1::uuid[], $2::text[], $3::text[], $4::text[], true)"

WRITE = """
SELECT write_changes(
    $1, $2::uuid[], $3::text[], $4::uuid[], $5::text[], $6::text[], $7::text[],
    $8::uuid[], $9::text[], $10::bigint[], $11::bigint[],
    $12::uuid[], $13::text[], $14::text[], $15::bytea[], $16::text[],
    $17::uuid[], $18::text[], $19::uuid[], $20::text[], $21::timestamptz[], $22::text[], $23::uuid[]
)
"""

INSERT_EVENTS = """
INSERT INTO outbox (event_id, event_type, key, payload)
SELECT gen_random_uuid(), 'test.event', 'key/' || (n % $2), convert_to(n::text, 'UTF8')
FROM generate_series(1, $1::int) AS n
ORDER BY n
"""

SEED_DOCUMENTS = """
INSERT INTO documents (workspace_id, id)
SELECT $1, 'doc_' || n
FROM generate_series(1, $2::int) AS n
"""

SEED_ENTITIES = """
INSERT INTO entities (workspace_id, type, id)
SELECT $1, $2, n
FROM generate_series(1, $3::int) AS n
"""

ACTIVE_LINKS = "SELECT id FROM document_links WHERE deleted_at IS NULL"


async def insert_events(connection: asyncpg.Connection, count: int, keys: int = 100) -> None:
    """Put events with the payloads 1 … count into the outbox, over so many keys."""
    await connection.execute(INSERT_EVENTS, count, keys)


async def insert_event(connection: asyncpg.Connection, key: str, payload: str) -> None:
    """Put one event into the outbox."""
    await connection.execute(
        "INSERT INTO outbox (event_id, event_type, key, payload) VALUES ($1, 'test.event', $2, $3)",
        uuid4(),
        key,
        payload.encode(),
    )


async def seed(connection: asyncpg.Connection, documents: int, entities: int) -> None:
    """Make documents `doc_n` and entities `n`, so that there is something to link."""
    await connection.execute("INSERT INTO workspaces (id, name) VALUES ($1, 'test')", WORKSPACE)
    await connection.execute(
        SEED_DOCUMENTS,
        WORKSPACE,
        documents,
    )
    await connection.execute(
        SEED_ENTITIES,
        WORKSPACE,
        TYPE,
        entities,
    )


async def toggle(connection: asyncpg.Connection, document: str, entity: str) -> None:
    """Link, unlink or restore, whichever is next for this pair, with its event."""
    async with connection.transaction():
        now = await connection.fetchrow(READ, [WORKSPACE], [document], [TYPE], [entity])
        assert now is not None
        if now["link_id"] is None:
            await _write(connection, document, entity, now, "document.linked")
        elif now["deleted_at"] is None:
            await _write(connection, document, entity, now, "document.unlinked")
        else:
            await _write(connection, document, entity, now, "document.restored")


async def toggle_any(
    connection: asyncpg.Connection, choice: random.Random, documents: int, entities: int
) -> None:
    """Do that for a pair chosen at random."""
    document = f"doc_{choice.randint(1, documents)}"
    await toggle(connection, document, str(choice.randint(1, entities)))


async def _write(
    connection: asyncpg.Connection, document: str, entity: str, now: asyncpg.Record, kind: str
) -> None:
    moment = now["moment"]
    link = now["link_id"] or uuid4()
    new = [link] if now["link_id"] is None else []
    old = [] if new else [link]
    unlinked = kind == "document.unlinked"
    version = now["version"] + 1
    event_id = uuid4()
    event = {"id": str(event_id), "type": kind, "subject": document, "version": version}
    event["link"] = str(link)
    await connection.execute(
        WRITE, moment,
        [WORKSPACE] * len(new), [document] * len(new), new, [TYPE] * len(new),
        [entity] * len(new), [None] * len(new),
        [WORKSPACE], [document], [version], [now["revision"] + 1],
        [event_id], [kind], [f"{WORKSPACE}/{document}"], [json.dumps(event).encode()], [None],
        [WORKSPACE] * len(old), [document] * len(old), old, [None] * len(old),
        [moment if unlinked else None] * len(old), ["unlink" if unlinked else None] * len(old),
        [None] * len(old),
    )  # fmt: skip


async def active_links(connection: asyncpg.Connection) -> set[str]:
    """Return the ids of the links that are active."""
    return {str(row["id"]) for row in await connection.fetch(ACTIVE_LINKS)}
