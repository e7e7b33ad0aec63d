"""Locking and reading the rows that the writes of a transaction need, with the functions of schema.sql."""

from collections.abc import Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Final

from service.core.documents import DocumentWrite
from service.core.entities import EntityWrite
from service.core.ids import EPOCH
from service.core.values import (
    DocumentKey,
    DocumentRow,
    DocumentState,
    EntityKey,
    EntityState,
    LinkKey,
    LinkRow,
)
from service.core.writes import State, Write
from service.store.writing.transaction import Appeared

if TYPE_CHECKING:
    import asyncpg

    from service.store.database import Connection

NOW: Final = "SELECT clock_timestamp()"

MAKE_DOCUMENT: Final = """
INSERT INTO documents (workspace_id, id)
VALUES ($1, $2)
ON CONFLICT DO NOTHING
RETURNING true
"""

LOCK_DOCUMENTS: Final = """
SELECT locked_at, workspace_id::text, links, id, version, revision, display_name, category, metadata,
    created_at, updated_at, deleted_at, deletion_id
FROM lock_documents($1, $2, $3, $4)
"""

LOCK_LINKS: Final = """
SELECT locked_at, is_locked, version, revision, document_deleted_at, entity_known,
    link_id, role, created_at, deleted_at
FROM lock_links($1, $2)
"""

# An entity whose deletion is not complete, since it has active links, stays deleted.
# For NOT EXISTS the planner might build a hash of all links; so it is a sub-select with LIMIT.
REGISTER: Final = """
INSERT INTO entities AS e (workspace_id, type, id, created_at)
SELECT w, t, i, clock_timestamp()
FROM unnest($1::uuid[], $2::text[], $3::text[]) WITH ORDINALITY AS u (w, t, i, n)
ORDER BY n
ON CONFLICT (workspace_id, type, id) DO UPDATE
SET deleted_at = NULL, created_at = excluded.created_at
WHERE e.deleted_at IS NOT NULL
    AND (
        SELECT true FROM document_links AS l
        WHERE l.workspace_id = e.workspace_id AND l.entity_id = e.id AND l.entity_type = e.type
            AND l.deleted_at IS NULL
        LIMIT 1
    ) IS NULL
RETURNING e.created_at
"""

READ_ENTITY: Final = """
SELECT clock_timestamp(), deleted_at IS NOT NULL,
    EXISTS (
        SELECT FROM document_links AS l
        WHERE l.workspace_id = e.workspace_id AND l.entity_id = e.id AND l.entity_type = e.type
            AND l.deleted_at IS NULL
    )
FROM entities AS e
WHERE workspace_id = $1 AND type = $2 AND id = $3
"""

# FOR UPDATE conflicts with the FOR KEY SHARE of every transaction that is linking to the entity. FOR NO KEY
# UPDATE, which is enough to mark the entity, does not.
TRY_ENTITY: Final = f"{READ_ENTITY} FOR UPDATE SKIP LOCKED"
MARK_ENTITY: Final = f"{READ_ENTITY} FOR NO KEY UPDATE"
SETTLE_ENTITY: Final = """
SELECT true
FROM entities
WHERE workspace_id = $1 AND type = $2 AND id = $3 AND deleted_at IS NOT NULL
FOR UPDATE
"""

READ_CHUNK: Final = 500
"""Links in one call of lock_links; the cost of a call grows with the square of their number."""

FEW_LINKS: Final = 100
"""The most links of a document in a joint transaction: reading more would delay the other writes."""

ANY_NUMBER: Final = 2**62
"""For a document that is read with all its links, however many."""


async def lock_all(
    connection: "Connection", state: State, write: Write, *, register_unknown: bool
) -> None:
    """Insert the missing rows that the write needs; wait for its locks, and read its rows into the state.

    Raises:
        Appeared: another transaction inserted a row between lock and read.
    """
    if isinstance(write, DocumentWrite):
        if write.makes_document and await connection.fetchval(MAKE_DOCUMENT, *write.key):
            state.made.add(write.key)
        await _lock_documents(connection, state, [write.key], wait=True)
    elif isinstance(write, EntityWrite):
        await _lock_entity(connection, state, write)
    keys = sorted(set(write.links(state)))
    locked_elsewhere = await lock_links(connection, state, keys, wait=True)
    if register_unknown and (unknown := write.unknown_entities(state)):
        await _register(connection, sorted(unknown))
        locked_elsewhere = await lock_links(connection, state, keys, wait=True)
    if locked_elsewhere:
        raise Appeared
    if state.now is EPOCH:  # a batch without a valid operation locks nothing, and stores its reply
        state.set_time(await connection.fetchval(NOW))


async def lock_free(
    connection: "Connection", state: State, writes: Sequence[Write]
) -> set[LinkKey]:
    """Take the locks that are free, and read their rows into the state.

    Returns the links that another transaction has locked. The document of a DocumentWrite is not in
    `state.rows` if it does not exist, is locked elsewhere, or may have more than FEW_LINKS links.
    """
    whole = {write.key for write in writes if isinstance(write, DocumentWrite)}
    if whole:
        await _lock_documents(connection, state, sorted(whole), wait=False, most_links=FEW_LINKS)
    keys = [key for write in writes for key in write.links(state)]
    locked_elsewhere = await lock_links(connection, state, keys, wait=False)
    if state.now is EPOCH:
        state.set_time(await connection.fetchval(NOW))
    return locked_elsewhere


async def _lock_documents(
    connection: "Connection",
    state: State,
    keys: Sequence[DocumentKey],
    *,
    wait: bool,
    most_links: int = ANY_NUMBER,
) -> None:
    """Lock documents, and read them with their links into the state.

    Left out are documents that do not exist, that may have more than `most_links` links according to their
    version, and, unless `wait`, that another transaction has locked.
    """
    rows = await connection.fetch(LOCK_DOCUMENTS, *zip(*keys, strict=True), wait, most_links)
    for locked_at, workspace_id, links, *values in rows:
        state.set_time(locked_at)
        if links is None:
            continue
        row = DocumentRow(*values)
        key = DocumentKey(workspace_id, row.id)
        state.rows[key] = row
        active = 0
        for link_id, entity_type, entity_id, role, created, deleted, cause, deletion in links:
            link = LinkKey(key, EntityKey(workspace_id, entity_type, entity_id))
            state.links[link] = LinkRow(link, link_id, role, created, deleted, cause, deletion)
            state.stored_links.add(link)
            active += deleted is None
        state.documents[key] = DocumentState(
            row.version, row.revision, row.deleted_at is not None, active
        )


async def lock_links(
    connection: "Connection", state: State, keys: Sequence[LinkKey], *, wait: bool
) -> set[LinkKey]:
    """Lock the links' documents and entities, and read the links into the state.

    Returns the links that another transaction has locked; their rows were not read. With `wait`, the
    keys must be sorted, so that nothing deadlocks.
    """
    locked_elsewhere: set[LinkKey] = set()
    for start in range(0, len(keys), READ_CHUNK):
        chunk = keys[start : start + READ_CHUNK]
        wanted = [(*document, entity.type, entity.id) for document, entity in chunk]
        rows = await connection.fetch(LOCK_LINKS, wanted, wait)
        for key, row in zip(chunk, rows, strict=True):
            if row["is_locked"]:
                _take(state, key, row)
            else:
                locked_elsewhere.add(key)
        state.set_time(rows[-1]["locked_at"])
    return locked_elsewhere


def _take(state: State, key: LinkKey, row: "asyncpg.Record") -> None:
    """Put a row of lock_links into the state, unless its document was read whole before."""
    _, _, version, revision, document_deleted, entity_known, *link = row
    link_id, role, created, deleted = link
    if version is not None and (document := key.document) not in state.documents:
        state.documents[document] = DocumentState(version, revision, document_deleted is not None)
    if entity_known:
        state.entities.add(key.entity)
    if link_id is not None and key not in state.links:
        state.links[key] = LinkRow(key, link_id, role, created, deleted)
        state.stored_links.add(key)


async def _register(connection: "Connection", keys: Sequence[EntityKey]) -> Sequence[datetime]:
    """Insert the entities, or clear their deletion.

    The keys must be sorted, so that nothing deadlocks. Returns a time for each entity that was changed.
    """
    rows = await connection.fetch(REGISTER, *zip(*keys, strict=True))
    return [row[0] for row in rows]


async def _lock_entity(connection: "Connection", state: State, write: EntityWrite) -> None:
    """Register or lock the entity as the write's operation requires, and read it into the state."""
    registered: Sequence[datetime] = ()
    row = None
    if write.operation == "settle":
        await connection.execute(SETTLE_ENTITY, *write.key)
    elif write.operation == "register":
        registered = await _register(connection, [write.key])
        row = await connection.fetchrow(READ_ENTITY, *write.key)
    else:
        row = await connection.fetchrow(TRY_ENTITY, *write.key)
    exclusive = row is not None
    if write.operation == "delete" and row is None:
        row = await connection.fetchrow(MARK_ENTITY, *write.key)
    if row is not None:
        locked_at, deleted, linked = row
        if registered:
            state.registered_entities.add(write.key)
        state.set_time(registered[0] if registered else locked_at)
        state.entity_rows[write.key] = EntityState(
            deleted, bool(registered), linked or not exclusive
        )
