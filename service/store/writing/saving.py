"""Saving the changes that a transaction's writes have decided: one call of save_changes (schema.sql)."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Final, NamedTuple

from service.core.values import DocumentKey, LinkRow
from service.core.writes import Idempotency, Reply, State
from service.store.writing.transaction import Witness

if TYPE_CHECKING:
    from service.store.database import Connection

DELETE_ENTITIES: Final = """
UPDATE entities AS e
SET deleted_at = $4
FROM unnest($1::uuid[], $2::text[], $3::text[]) AS u (w, t, i)
WHERE e.workspace_id = u.w AND e.type = u.t AND e.id = u.i
"""

SAVE_NEW: Final = "SELECT save_changes($1, $2, $3, $4)"
SAVE_ALL: Final = "SELECT save_changes($1, $2, $3, $4, $5, $6, $7)"
"""Also changed links, changed documents and replies. SAVE_NEW is faster: empty arrays cost time, too."""


class StoredReply(NamedTuple):
    """A reply, and the workspace and idempotency scope under which it is stored."""

    workspace_id: str
    idempotency: Idempotency
    reply: Reply


async def save(
    connection: "Connection", state: State, replies: Sequence[StoredReply] = ()
) -> Witness | None:
    """Save the state's changes and the replies.

    Returns a row that only this transaction wrote; None: there was nothing to save.
    """
    witness = _witness(state, replies)
    if witness is None:
        return None
    if state.deleted_entities:
        keys = zip(*sorted(state.deleted_entities), strict=True)
        await connection.execute(DELETE_ENTITIES, *keys, state.now)
    written = [state.links[key] for key in state.written_links]
    new = [_new(link) for link in written if link.key not in state.stored_links]
    # A link that is made and removed in one transaction is inserted, and then updated.
    changed = [
        _changed(link)
        for link in written
        if link.key in state.stored_links or link.deleted_at is not None
    ]
    counters = [
        _counters(state, key) for key in state.written_documents - state.written_rows.keys()
    ]
    arguments: list[object] = [state.now, new, counters, state.outbox]
    if changed or state.written_rows or replies:
        rows = [_fields(state, key) for key in state.written_rows]
        stored = [(r.workspace_id, *r.idempotency, r.reply.status, r.reply.body) for r in replies]
        xid = await connection.fetchval(SAVE_ALL, *arguments, changed, rows, stored)
    else:
        xid = await connection.fetchval(SAVE_NEW, *arguments)
    return witness._replace(xid=xid)


def _witness(state: State, replies: Sequence[StoredReply]) -> Witness | None:
    """Return the witness, without its xid; an event if there is one, since its look-up costs least."""
    if state.outbox:
        return Witness(event_id=state.outbox[0].event_id)
    now = state.now
    if replies:
        first = replies[0]
        scope = first.idempotency.scope
        return Witness(written_at=now, workspace_id=first.workspace_id, scope=scope)
    for workspace_id, document_id in state.written_documents:
        return Witness(written_at=now, workspace_id=workspace_id, document_id=document_id)
    for workspace_id, entity_type, entity_id in state.deleted_entities | state.registered_entities:
        return Witness(
            written_at=now, workspace_id=workspace_id, entity_type=entity_type, entity_id=entity_id
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
