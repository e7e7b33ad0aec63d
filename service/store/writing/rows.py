"""The rows of a transaction: locking and reading them into the state, and saving what it has changed.

The functions of schema.sql do it, each in one round trip.
"""

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from service.core.ids import EPOCH
from service.core.values import DocumentKey, DocumentRow, DocumentState, EntityKey, LinkKey, LinkRow
from service.core.writes import Needs, State, Write
from service.store.writing.entities import register
from service.store.writing.transaction import Appeared
from service.store.writing.witness import Witness

if TYPE_CHECKING:
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

# Only document_links_triple_key has this order, as in lock_links. A standby may lag behind.
READ_ACTIVE: Final = """
SELECT k.ordinality, true, d.version, d.revision, NULL, true, l.id, l.role, l.created_at, NULL
FROM unnest($1::link_key[]) WITH ORDINALITY AS k
CROSS JOIN LATERAL (
    SELECT version, revision
    FROM documents
    WHERE workspace_id = k.workspace_id AND id = k.document_id AND deleted_at IS NULL
    OFFSET 0
) AS d
CROSS JOIN LATERAL (
    SELECT FROM entities
    WHERE workspace_id = k.workspace_id AND type = k.entity_type AND id = k.entity_id
        AND deleted_at IS NULL
    OFFSET 0
) AS e
CROSS JOIN LATERAL (
    SELECT id, entity_id, role, created_at, deleted_at
    FROM document_links
    WHERE workspace_id = k.workspace_id AND document_id = k.document_id
        AND entity_type = k.entity_type AND entity_id >= k.entity_id
    ORDER BY entity_id
    LIMIT 1
) AS l
WHERE l.entity_id = k.entity_id AND l.deleted_at IS NULL AND NOT pg_is_in_recovery()
"""

DELETE_ENTITY: Final = """
UPDATE entities
SET deleted_at = $4
WHERE workspace_id = $1 AND type = $2 AND id = $3
"""

SAVE_NEW: Final = "SELECT save_changes($1, $2, $3, $4)"
SAVE_ALL: Final = "SELECT save_changes($1, $2, $3, $4, $5, $6, $7)"
"""Also changed links, changed documents and replies. SAVE_NEW is faster: empty arrays cost time, too."""

READ_CHUNK: Final = 500
"""Links in one call of lock_links. It bounds the memory of both sides; a link costs the same in any call."""

FEW_LINKS: Final = 100
"""The most links of a document in a joint transaction: reading more would delay the other writes."""

ANY_NUMBER: Final = 2**62
"""For a document that is read with all its links, however many."""


class StoredReply(NamedTuple):
    """A reply to store: the type stored_reply of schema.sql."""

    workspace_id: str
    scope: bytes
    fingerprint: bytes
    status: int
    body: bytes


async def lock_all(
    connection: "Connection", state: State, write: Write, needs: Needs, *, register_unknown: bool
) -> None:
    """Insert the missing rows that the write needs; wait for its locks, and read its rows into the state.

    Raises:
        Appeared: another transaction inserted or removed a row between two statements.
    """
    if needs.whole is not None:
        if needs.makes_row and await connection.fetchval(MAKE_DOCUMENT, *needs.whole):
            state.made.add(needs.whole)
        await _lock_documents(connection, state, [needs.whole], wait=True)
        if needs.makes_row and needs.whole not in state.rows:
            raise Appeared  # the INSERT found a row that was removed before its lock was free
    keys = sorted(set(write.links(state)))
    locked_elsewhere = await lock_links(connection, state, keys, wait=True)
    if register_unknown and (unknown := write.unknown_entities(state)):
        await register(connection, sorted(unknown))
        locked_elsewhere = await lock_links(connection, state, keys, wait=True)
    if locked_elsewhere:
        raise Appeared
    if state.now is EPOCH:  # a batch without a valid operation locks nothing, and stores its reply
        state.now = await connection.fetchval(NOW)


async def lock_free(
    connection: "Connection", state: State, writes: Sequence[Write], whole: set[DocumentKey]
) -> set[LinkKey]:
    """Take the locks that are free, and read their rows into the state.

    Returns the links that another transaction has locked. A document in `whole` is not in `state.rows` if it
    does not exist, is locked elsewhere, or may have more than FEW_LINKS links.
    """
    if whole:
        await _lock_documents(connection, state, sorted(whole), wait=False)
    keys = [key for write in writes for key in write.links(state)]
    locked_elsewhere = await lock_links(connection, state, keys, wait=False)
    if state.now is EPOCH:
        state.now = await connection.fetchval(NOW)
    return locked_elsewhere


async def _lock_documents(
    connection: "Connection", state: State, keys: Sequence[DocumentKey], *, wait: bool
) -> None:
    """Lock documents, and read them with their links into the state.

    Left out are documents that do not exist. Without `wait`, so are those that another transaction has
    locked, and those that may have more than FEW_LINKS links according to their version.
    """
    most_links = ANY_NUMBER if wait else FEW_LINKS
    rows = await connection.fetch(LOCK_DOCUMENTS, *zip(*keys, strict=True), wait, most_links)
    for locked_at, workspace_id, links, *values in rows:
        state.now = locked_at
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
                take(state, key, row)
            else:
                locked_elsewhere.add(key)
        state.now = rows[-1]["locked_at"]
    return locked_elsewhere


async def read_active(connection: "Connection", state: State, keys: Sequence[LinkKey]) -> None:
    """Read into the state, without locks and in one snapshot, the links that are active.

    Left out are links whose document or entity is deleted; and all links, if the server is a standby.
    """
    wanted = [(*document, entity.type, entity.id) for document, entity in keys]
    for row in await connection.fetch(READ_ACTIVE, wanted):
        take(state, keys[row["ordinality"] - 1], row)


def take(state: State, key: LinkKey, row: "Iterable[Any]") -> None:
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


async def save(
    connection: "Connection", state: State, replies: Sequence[StoredReply] = ()
) -> Witness | None:
    """Save the state's changes and the replies.

    Returns a row that only this transaction wrote; None: there was nothing to save.
    """
    unsaved, witness = state.unsaved, _witness(state, replies)
    if witness is None:
        return None
    if unsaved.deleted_entity is not None:
        await connection.execute(DELETE_ENTITY, *unsaved.deleted_entity, state.now)
    written = [state.links[key] for key in unsaved.links]
    new = [_new(link) for link in written if link.key not in state.stored_links]
    # A link that is made and removed in one transaction is inserted, and then updated.
    changed = [
        _changed(link)
        for link in written
        if link.key in state.stored_links or link.deleted_at is not None
    ]
    counters = [_counters(state, key) for key in unsaved.documents - unsaved.rows]
    arguments: list[object] = [state.now, new, counters, unsaved.outbox]
    if changed or unsaved.rows or replies:
        rows = [_fields(state, key) for key in unsaved.rows]
        xid = await connection.fetchval(SAVE_ALL, *arguments, changed, rows, replies)
    else:
        xid = await connection.fetchval(SAVE_NEW, *arguments)
    return witness._replace(xid=xid)


def _witness(state: State, replies: Sequence[StoredReply]) -> Witness | None:
    """Return the witness, without its xid; an event if there is one, since its look-up costs least."""
    unsaved, now = state.unsaved, state.now
    if unsaved.outbox:
        return Witness(event_id=unsaved.outbox[0].event_id)
    if replies:
        first = replies[0]
        return Witness(written_at=now, workspace_id=first.workspace_id, scope=first.scope)
    for workspace_id, document_id in unsaved.documents:
        return Witness(written_at=now, workspace_id=workspace_id, document_id=document_id)
    entity = unsaved.deleted_entity or unsaved.registered_entity
    if entity is None:
        return None
    return Witness(
        written_at=now,
        workspace_id=entity.workspace_id,
        entity_type=entity.type,
        entity_id=entity.id,
    )


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
    row = state.rows[key]
    fields = (row.display_name, row.category, row.metadata, row.deleted_at, row.deletion_id)
    return *_counters(state, key), *fields
