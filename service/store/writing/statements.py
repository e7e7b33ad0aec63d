"""The write path: every change of a link, from whichever endpoint, is locked and written here.

Lock and read in one round trip, decide in Python, write links, documents, events and stored replies
in a second one. The two functions are in schema.sql, with the reasons for their shape.
"""

import secrets
from collections.abc import Sequence
from itertools import repeat
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from msgspec.structs import replace

from service.core.changes import DocumentState, LinkRow, Triple
from service.core.decide import State
from service.core.requests import Idempotency, Reply
from service.store.writing.transaction import Witness

if TYPE_CHECKING:
    import asyncpg

    from service.store.database import Connection

LOCK_SCOPES: Final = "SELECT ordinal, fingerprint, status, body FROM lock_scopes($1, $2, $3)"

LOCK_AND_READ: Final = """
SELECT moment, held, version, revision, document_deleted_at, entity_known,
    link_id, role, created_at, deleted_at
FROM lock_and_read($1::text::uuid[], $2::text::text[], $3::text::text[], $4::text::text[], $5)
"""
"""Arrays of ids are sent as text: see `_array_of_ids`."""

MOMENT: Final = "SELECT clock_timestamp()"

_NEW: Final = (
    "$1, $2::text::uuid[], $3::text::text[], $4, $5::text::text[], $6::text::text[], $7, "
    "$8::text::uuid[], $9::text::text[], $10, $11, "
    "$12::text::uuid[], $13::text::text[], $14::text::text[], $15, $16"
)
WRITE_NEW: Final = f"SELECT write_changes({_NEW})"
WRITE_ALL: Final = f"SELECT write_changes({_NEW}, {', '.join(f'${n}' for n in range(17, 29))})"
"""With changed links and replies too. Where there are none, 12 empty arrays would cost more than a link."""

NO_REPLY: Final = Reply(200, b"")
"""Of a transaction's mark, and of a step whose caller is answered later."""

READ_CHUNK: Final = 500
"""Triples a call of lock_and_read: its cost grows with their square."""


class StoredReply(NamedTuple):
    """A reply to be stored, and the workspace and Idempotency-Key that it is stored under."""

    workspace_id: str
    idempotency: Idempotency
    reply: Reply


async def lock_scopes(
    connection: "Connection", scopes: Sequence[tuple[str, Idempotency]], *, patient: bool
) -> "list[tuple[bytes, Reply] | bool]":
    """Lock each scope; return for each the reply stored under it with its fingerprint.

    Where there is none: True if the scope is locked now, False if somebody else has it.
    """
    answers: list[tuple[bytes, Reply] | bool] = [False] * len(scopes)
    rows = await connection.fetch(
        LOCK_SCOPES,
        [workspace for workspace, _ in scopes],
        [idempotency.scope for _, idempotency in scopes],
        patient,
    )
    for ordinal, fingerprint, status, body in rows:
        stored = fingerprint is not None
        answers[ordinal - 1] = (fingerprint, Reply(status, body, replayed=True)) if stored else True
    return answers


async def lock_and_read(
    connection: "Connection", triples: Sequence[Triple], *, patient: bool
) -> tuple[State, set[Triple]]:
    """Lock the triples' documents and entities, and read them with their links.

    Without triples (of a batch in which no operation makes sense) the state is empty.

    Returns the state, and the triples whose locks were not to be had: of those nothing is known.
    Callers that wait for locks (patient) pass the triples sorted, so that nothing deadlocks.
    """
    state: State | None = None
    unheld: set[Triple] = set()
    for start in range(0, len(triples), READ_CHUNK):
        chunk = triples[start : start + READ_CHUNK]
        columns = map(_array_of_ids, zip(*chunk, strict=True))
        rows = await connection.fetch(LOCK_AND_READ, *columns, patient)
        moment = rows[-1][0]  # after the last lock
        state = State(moment) if state is None else replace(state, moment=moment)
        for triple, row in zip(chunk, rows, strict=True):
            if row[1]:
                _take(state, triple, row)
            else:
                unheld.add(triple)
    return state or await empty_state(connection), unheld


async def empty_state(connection: "Connection") -> State:
    """Return the state of a transaction that has read no links, as of now."""
    return State(await connection.fetchval(MOMENT))


def _take(state: State, triple: Triple, row: "asyncpg.Record") -> None:
    """Put one row of lock_and_read into the state."""
    _, _, version, revision, document_deleted, entity_active, *link = row
    link_id, role, created, deleted = link
    if version is not None:
        state.documents[triple.document] = DocumentState(
            version, revision, document_deleted is not None
        )
    if entity_active:
        state.entities.add(triple.entity)
    if link_id is not None:
        state.links[triple] = LinkRow(triple, link_id, role, created, deleted)
        state.stored_links.add(triple)


async def write_changes(
    connection: "Connection",
    state: State,
    replies: Sequence[StoredReply],
    *,
    also_wrote_in: str | None = None,
    witness: Witness | None = None,
) -> Witness | None:
    """Write what was decided, and the replies to be stored; return the transaction's witness.

    Args:
        connection: in the transaction.
        state: links, documents and events as decided.
        replies: to be stored.
        also_wrote_in: the workspace of rows that the caller wrote in this transaction by itself;
            None if there are none.
        witness: what an earlier call in this transaction returned.

    Returns:
        A row that only this transaction wrote: its first event, or a row made for the purpose.
        None if nothing was written, so that the transaction may be rolled back.
    """
    workspace_id = also_wrote_in or _written_in(state, replies)
    if workspace_id is None:
        return witness
    mark = None if state.outbox or witness is not None else _mark(workspace_id)
    if mark is not None:
        replies = [*replies, mark]
    written = [state.links[triple] for triple in state.written_links]
    new = [link for link in written if link.triple not in state.stored_links]
    # A link that is made and removed in one transaction is inserted, and then updated like others.
    old = [link for link in written if link.triple in state.stored_links or link.deleted_at]
    columns = [*_new_links(new), *_documents(state), *_events(state)]
    if old or replies:
        columns += _old_links(old)
        columns += _columns([(r.workspace_id, *r.idempotency, *r.reply[:2]) for r in replies], 5)
    statement = WRITE_ALL if old or replies else WRITE_NEW
    xid = await connection.fetchval(statement, state.moment, *columns)
    if witness is not None:
        return witness
    if mark is not None:
        return Witness(xid, workspace_id=workspace_id, scope=mark.idempotency.scope)
    return Witness(xid, event_id=state.outbox[0].event_id)


def _written_in(state: State, replies: Sequence[StoredReply]) -> str | None:
    """Return a workspace that something is to be written in; every event has a link."""
    for triple in state.written_links:
        return triple.workspace_id
    for workspace_id, _ in state.written_documents:
        return workspace_id
    return replies[0].workspace_id if replies else None


def _mark(workspace_id: str) -> StoredReply:
    """Return a row that proves a transaction without events, under a random scope that nobody asks for.

    A stored reply proves nothing: an expired one of the same key may still be there.
    """
    return StoredReply(workspace_id, Idempotency(secrets.token_bytes(32), bytes(32)), NO_REPLY)


Columns = Sequence[Sequence[Any]]


def _new_links(links: Sequence[LinkRow]) -> Columns:
    workspaces, documents, link_ids, types, entities, roles = _columns(
        [(t[0], t[1], link.id, t[2], t[3], link.role) for link in links for t in (link.triple,)], 6
    )
    return [
        *map(_array_of_ids, (workspaces, documents)),
        link_ids,
        *map(_array_of_ids, (types, entities)),
        roles,
    ]


def _old_links(links: Sequence[LinkRow]) -> Columns:
    rows = [
        (
            *link.triple[:2],
            link.id,
            link.role,
            link.deleted_at,
            link.deleted_cause,
            link.deletion_id,
        )
        for link in links
    ]
    return _columns(rows, 7)


def _documents(state: State) -> Columns:
    rows = [
        (*key, document.version, document.revision)
        for key in state.written_documents
        for document in (state.documents[key],)
    ]
    workspaces, document_ids, *numbers = _columns(rows, 4)
    return [*map(_array_of_ids, (workspaces, document_ids)), *numbers]


def _events(state: State) -> Columns:
    event_ids, types, keys, *rest = _columns(state.outbox, 5)
    return [*map(_array_of_ids, (event_ids, types, keys)), *rest]


def _array_of_ids(values: Sequence[str]) -> str:
    """Return an array in the text form of Postgres. No id has a character that is escaped in it.

    asyncpg compares each element of an array with two abstract base classes, to find nested arrays.
    That took a tenth of the instructions of a link. To parse the text costs Postgres a tenth of that.
    """
    return '{"' + '","'.join(values) + '"}' if values else "{}"


def _columns(rows: Sequence[Sequence[object]], width: int) -> Columns:
    """Turn rows into one array for each column."""
    return list(zip(*rows, strict=True)) if rows else list(repeat((), width))
