"""The statements of a writing transaction: what locks and reads, and what saves.

The functions that they call are in schema.sql, with the reasons for their shape.
"""

from collections.abc import Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Final, NamedTuple

from service.core.changes import (
    DocumentKey,
    DocumentRow,
    DocumentState,
    EntityKey,
    EntityState,
    LinkKey,
    LinkRow,
)
from service.core.entities import EntityWrite
from service.core.writes import Idempotency, Reply, State
from service.store.writing.transaction import Witness

if TYPE_CHECKING:
    import asyncpg

    from service.store.database import Connection

NOW: Final = "SELECT clock_timestamp()"

LOCK_SCOPES: Final = "SELECT ordinal, fingerprint, status, body FROM lock_scopes($1, $2, $3)"

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

# An entity whose deletion has not reached all its links yet stays deleted: its links are to stay unlinked.
# (NOT EXISTS might be made a hash of all links.)
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

# FOR UPDATE conflicts with the FOR KEY SHARE of every transaction that is linking to the entity; FOR NO KEY
# UPDATE, which marking needs, with none of them.
TRY_ENTITY: Final = f"{READ_ENTITY} FOR UPDATE SKIP LOCKED"
MARK_ENTITY: Final = f"{READ_ENTITY} FOR NO KEY UPDATE"
SETTLE_ENTITY: Final = """
SELECT true
FROM entities
WHERE workspace_id = $1 AND type = $2 AND id = $3 AND deleted_at IS NOT NULL
FOR UPDATE
"""

DELETE_ENTITIES: Final = """
UPDATE entities AS e
SET deleted_at = $4
FROM unnest($1::uuid[], $2::text[], $3::text[]) AS u (w, t, i)
WHERE e.workspace_id = u.w AND e.type = u.t AND e.id = u.i
"""

SAVE_NEW: Final = "SELECT save_changes($1, $2, $3, $4)"
SAVE_ALL: Final = "SELECT save_changes($1, $2, $3, $4, $5, $6, $7)"
"""With changed links, changed documents and replies: arrays cost time even if they are empty."""

READ_CHUNK: Final = 500
"""Links a call of lock_links: its cost grows with their square."""

ANY_NUMBER: Final = 2**62
"""Of links of a document that are read."""


class StoredReply(NamedTuple):
    """A reply to be stored, and the workspace and Idempotency-Key that it is stored under."""

    workspace_id: str
    idempotency: Idempotency
    reply: Reply


async def lock_scopes(
    connection: "Connection", scopes: Sequence[tuple[str, Idempotency]], *, wait: bool
) -> "list[tuple[bytes, Reply] | bool]":
    """Lock each scope; return for each the reply stored under it, with its fingerprint.

    Where there is none: True if the scope is locked now, False if another transaction has locked it.
    """
    answers: list[tuple[bytes, Reply] | bool] = [False] * len(scopes)
    rows = await connection.fetch(
        LOCK_SCOPES,
        [workspace for workspace, _ in scopes],
        [idempotency.scope for _, idempotency in scopes],
        wait,
    )
    for ordinal, fingerprint, status, body in rows:
        stored = fingerprint is not None
        answers[ordinal - 1] = (fingerprint, Reply(status, body, replayed=True)) if stored else True
    return answers


async def now(connection: "Connection") -> datetime:
    """Return the database's clock."""
    moment: datetime = await connection.fetchval(NOW)
    return moment


async def make_document(connection: "Connection", state: State, key: DocumentKey) -> None:
    """Insert the document unless it exists."""
    if await connection.fetchval(MAKE_DOCUMENT, *key):
        state.made.add(key)


async def lock_documents(
    connection: "Connection",
    state: State,
    keys: Sequence[DocumentKey],
    *,
    wait: bool,
    most_links: int = ANY_NUMBER,
) -> None:
    """Lock whole documents and read them with their links.

    Documents that do not exist are left out of the state; so are, unless `wait`, those that another
    transaction has locked, and those whose version says that they may have more than `most_links`.
    """
    rows = await connection.fetch(LOCK_DOCUMENTS, *zip(*keys, strict=True), wait, most_links)
    for locked_at, workspace_id, links, *values in rows:
        state.at(locked_at)
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
    """Lock the keys' documents and entities, and read the links into the state.

    Returns the keys that another transaction has locked; their rows were not read. Callers that
    wait pass the keys sorted, so that nothing deadlocks.
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
        state.at(rows[-1]["locked_at"])
    return locked_elsewhere


def _take(state: State, key: LinkKey, row: "asyncpg.Record") -> None:
    """Put one row of lock_links into the state; what was read with its whole document is there."""
    _, _, version, revision, document_deleted, entity_known, *link = row
    link_id, role, created, deleted = link
    if version is not None and (document := key.document) not in state.documents:
        state.documents[document] = DocumentState(version, revision, document_deleted is not None)
    if entity_known:
        state.entities.add(key.entity)
    if link_id is not None and key not in state.links:
        state.links[key] = LinkRow(key, link_id, role, created, deleted)
        state.stored_links.add(key)


async def register(connection: "Connection", keys: Sequence[EntityKey]) -> Sequence[datetime]:
    """Make the entities known, or bring them back from deletion; their links stay unlinked.

    Takes the keys sorted, so that nothing deadlocks. Returns when, of each that was not known before.
    """
    rows = await connection.fetch(REGISTER, *zip(*keys, strict=True))
    return [row[0] for row in rows]


async def lock_entity(connection: "Connection", state: State, write: EntityWrite) -> None:
    """Lock the entity of a write as its operation needs it, and read it into the state."""
    registered: Sequence[datetime] = ()
    row = None
    if write.operation == "settle":
        await connection.execute(SETTLE_ENTITY, *write.key)
    elif write.operation == "register":
        registered = await register(connection, [write.key])
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
        state.at(registered[0] if registered else locked_at)
        state.entity_rows[write.key] = EntityState(
            deleted, bool(registered), linked or not exclusive
        )


async def save(
    connection: "Connection", state: State, replies: Sequence[StoredReply] = ()
) -> Witness | None:
    """Write what was decided, and the replies to be stored.

    Returns a row that only this transaction wrote; None if there was nothing to write.
    """
    witness = _witness(state, replies)
    if witness is None:
        return None
    if state.deleted_entities:
        keys = zip(*sorted(state.deleted_entities), strict=True)
        await connection.execute(DELETE_ENTITIES, *keys, state.moment)
    written = [state.links[key] for key in state.written_links]
    new = [_new(link) for link in written if link.key not in state.stored_links]
    # A link that is made and removed in one transaction is inserted, and then updated like others.
    changed = [
        _changed(link)
        for link in written
        if link.key in state.stored_links or link.deleted_at is not None
    ]
    counters = [
        _counters(state, key) for key in state.written_documents - state.written_rows.keys()
    ]
    arguments: list[object] = [state.moment, new, counters, state.outbox]
    if changed or state.written_rows or replies:
        rows = [_fields(state, key) for key in state.written_rows]
        stored = [(r.workspace_id, *r.idempotency, r.reply.status, r.reply.body) for r in replies]
        xid = await connection.fetchval(SAVE_ALL, *arguments, changed, rows, stored)
    else:
        xid = await connection.fetchval(SAVE_NEW, *arguments)
    state.forget_written()
    return witness._replace(xid=xid)


def _witness(state: State, replies: Sequence[StoredReply]) -> Witness | None:
    """Return what proves the transaction, without its xid; an event is looked up at the least cost."""
    if state.outbox:
        return Witness(event_id=state.outbox[0].event_id)
    moment = state.moment
    if replies:
        first = replies[0]
        return Witness(
            moment=moment, workspace_id=first.workspace_id, scope=first.idempotency.scope
        )
    for workspace_id, document_id in state.written_documents:
        return Witness(moment=moment, workspace_id=workspace_id, document_id=document_id)
    for workspace_id, entity_type, entity_id in state.deleted_entities | state.registered_entities:
        return Witness(
            moment=moment,
            workspace_id=workspace_id,
            entity_type=entity_type,
            entity_id=entity_id,
        )
    return None


def _new(link: LinkRow) -> tuple[object, ...]:
    document, entity = link.key
    return *document, link.id, entity.type, entity.id, link.role


def _changed(link: LinkRow) -> tuple[object, ...]:
    deleted = (link.deleted_at, link.deleted_cause, link.deletion_id)
    return *link.key.document, link.id, link.role, *deleted


def _counters(state: State, key: DocumentKey) -> tuple[object, ...]:
    document = state.documents[key]
    return *key, document.version, document.revision


def _fields(state: State, key: DocumentKey) -> tuple[object, ...]:
    row = state.written_rows[key]
    fields = (row.display_name, row.category, row.metadata, row.deleted_at, row.deletion_id)
    return *_counters(state, key), *fields
