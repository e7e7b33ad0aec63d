"""Links and their events, as the service decides them, written over one connection."""

import random
from typing import Final
from uuid import UUID

import asyncpg

from service.core.ids import IdSource
from service.core.links import Draft
from service.core.values import (
    AddLink,
    Caller,
    DocumentKey,
    DocumentState,
    EntityKey,
    LinkKey,
    LinkRow,
    Unlink,
)
from service.core.writes import State

WORKSPACE: Final = UUID("0193e6c4-0000-7000-8000-000000000001")
TYPE: Final = "deal"
CALLER: Final = Caller(str(WORKSPACE), "test", "req_test")
IDS: Final = IdSource()

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

LOCK_DOCUMENT = """
SELECT version, revision
FROM documents
WHERE workspace_id = $1 AND id = $2
FOR NO KEY UPDATE
"""

# A separate statement after the lock: its snapshot includes what the last transaction committed.
READ_LINK = """
SELECT clock_timestamp() AS locked_at, l.id, l.role, l.created_at, l.deleted_at
FROM (VALUES ($1::uuid, $2::text, $3::text, $4::text)) AS wanted (w, d, t, e)
LEFT JOIN document_links AS l
    ON l.workspace_id = w AND l.document_id = d AND l.entity_type = t AND l.entity_id = e
"""

WRITE = """
WITH document AS (
    UPDATE documents
    SET version = version + 1, revision = revision + 1, updated_at = $6
    WHERE workspace_id = $1 AND id = $2
),
link AS (
    INSERT INTO document_links (
        workspace_id, document_id, entity_type, entity_id, id, created_at, deleted_at, deleted_cause
    )
    VALUES ($1, $2, $3, $4, $5, $6, $7, $8)
    ON CONFLICT (workspace_id, document_id, entity_type, entity_id) DO UPDATE
    SET deleted_at = excluded.deleted_at, deleted_cause = excluded.deleted_cause
)
INSERT INTO outbox (event_id, event_type, key, payload)
VALUES ($9, $10, $11, $12)
"""

ACTIVE_LINKS = "SELECT id FROM document_links WHERE deleted_at IS NULL"


async def seed(connection: asyncpg.Connection, documents: int, entities: int) -> None:
    """Make documents `doc_1` … and entities `1` …."""
    await connection.execute("INSERT INTO workspaces (id, name) VALUES ($1, 'test')", WORKSPACE)
    await connection.execute(SEED_DOCUMENTS, WORKSPACE, documents)
    await connection.execute(SEED_ENTITIES, WORKSPACE, TYPE, entities)


async def toggle(connection: asyncpg.Connection, document: str, entity: str) -> str:
    """Link the pair, or unlink it if it is linked; return the event's id."""
    workspace_id = str(WORKSPACE)
    key = LinkKey(DocumentKey(workspace_id, document), EntityKey(workspace_id, TYPE, entity))
    ends = (WORKSPACE, document, TYPE, entity)
    async with connection.transaction():
        counters = await connection.fetchrow(LOCK_DOCUMENT, WORKSPACE, document)
        found = await connection.fetchrow(READ_LINK, *ends)
        assert counters
        assert found
        state = _state(key, counters, found)
        draft = Draft(state, CALLER, "unlink" if _is_active(found) else "link")
        draft.apply(Unlink(key) if _is_active(found) else AddLink(key))
        draft.keep()
        link, (event,) = state.links[key], state.unsaved.outbox
        await connection.execute(
            WRITE, *ends, link.id, state.now, link.deleted_at,
            link.deleted_cause, event.event_id, event.event_type, event.key, event.payload,
        )  # fmt: skip
    return event.event_id


async def toggle_any(
    connection: asyncpg.Connection, choice: random.Random, documents: int, entities: int
) -> None:
    """Toggle a pair chosen at random."""
    document = f"doc_{choice.randint(1, documents)}"
    await toggle(connection, document, str(choice.randint(1, entities)))


async def active_links(connection: asyncpg.Connection) -> set[str]:
    """Return the ids of the links that are active."""
    return {str(row["id"]) for row in await connection.fetch(ACTIVE_LINKS)}


def _state(key: LinkKey, counters: asyncpg.Record, found: asyncpg.Record) -> State:
    """Return the rows that were read as the state that `Draft` works on."""
    state = State(IDS)
    state.now = found["locked_at"]
    state.documents[key.document] = DocumentState(counters["version"], counters["revision"])
    state.entities.add(key.entity)
    if found["id"] is not None:
        link = LinkRow(key, found["id"], found["role"], found["created_at"], found["deleted_at"])
        state.links[key] = link
    return state


def _is_active(found: asyncpg.Record) -> bool:
    return found["id"] is not None and found["deleted_at"] is None
