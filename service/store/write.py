"""The write path: every change of a link, from whichever endpoint, is locked and written here.

Lock and read in one round trip, decide in Python, write links, documents, events and stored replies
in a second one. The two functions are in schema.sql, with the reasons for their shape.
"""

import uuid
from collections.abc import Sequence
from itertools import repeat
from typing import TYPE_CHECKING, Final, NamedTuple, Self

from service.core.changes import DocumentState, LinkRow, Triple
from service.core.decide import State
from service.core.requests import Idempotency, Reply
from service.store.transaction import Witness

if TYPE_CHECKING:
    import asyncpg

    from service.store.database import Connection

LOCK_SCOPES: Final = "SELECT ordinal, fingerprint, status, body FROM lock_scopes($1, $2, $3)"

LOCK_AND_READ: Final = """
SELECT moment, held, version, revision, document_deleted_at, entity_known, entity_deleted_at,
    link_id, role, created_at, deleted_at
FROM lock_and_read($1, $2, $3, $4, $5)
"""

MOMENT: Final = "SELECT clock_timestamp()"

WRITE_NEW: Final = f"SELECT write_changes({', '.join(f'${n}' for n in range(1, 17))})"
WRITE_ALL: Final = f"SELECT write_changes({', '.join(f'${n}' for n in range(1, 29))})"
"""With changed links and replies too. Where there are none, 12 empty arrays would cost more than a link."""

READ_CHUNK: Final = 500
"""Triples a call of lock_and_read: its cost grows with their square."""


class StoredReply(NamedTuple):
    """A reply to be stored, and under what."""

    workspace_id: str
    idempotency: Idempotency
    reply: Reply

    @classmethod
    def for_call(cls, workspace_id: str, idempotency: Idempotency | None, reply: Reply) -> Self:
        """Store it under the caller's Idempotency-Key, or under a scope that nobody asks for.

        The latter is the witness of a transaction that writes no event.
        """
        return cls(
            workspace_id, idempotency or Idempotency(uuid.uuid4().bytes * 2, bytes(32)), reply
        )


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

    Returns the state, and the triples whose locks were not to be had: of those nothing is known.
    Callers that wait for locks (patient) pass the triples sorted, so that nothing deadlocks.
    """
    if not triples:  # a batch of which no operation made sense: its answer is stored
        return await empty_state(connection), set()
    rows: list[asyncpg.Record] = []
    for start in range(0, len(triples), READ_CHUNK):
        chunk = zip(*triples[start : start + READ_CHUNK], strict=True)
        rows += await connection.fetch(LOCK_AND_READ, *chunk, patient)
    state = State(rows[-1][0])
    unheld: set[Triple] = set()
    for triple, row in zip(triples, rows, strict=True):
        if row[1]:
            _take(state, triple, row)
        else:
            unheld.add(triple)
    return state, unheld


async def empty_state(connection: "Connection") -> State:
    """Return the state of a transaction that has read no links, as of now."""
    return State(await connection.fetchval(MOMENT))


def _take(state: State, triple: Triple, row: "asyncpg.Record") -> None:
    """Put one row of lock_and_read into the state."""
    _, _, version, revision, document_deleted, known, entity_deleted, *link = row
    link_id, role, created, deleted = link
    if version is not None:
        state.documents[triple.document] = DocumentState(
            version, revision, document_deleted is not None
        )
    if known and entity_deleted is None:
        state.entities.add(triple.entity)
    if link_id is not None:
        state.links[triple] = LinkRow(triple, link_id, role, created, deleted)
        state.stored_links.add(triple)


async def write_changes(
    connection: "Connection", state: State, replies: Sequence[StoredReply]
) -> Witness | None:
    """Write what was decided, and the replies to be stored; return the transaction's witness.

    None if there was nothing to write.
    """
    if not state.outbox and not state.written_documents and not replies:
        return None
    written = [state.links[triple] for triple in state.written_links]
    new = [link for link in written if link.triple not in state.stored_links]
    # A link that is made and removed in one transaction is inserted, and then updated like others.
    old = [link for link in written if link.triple in state.stored_links or link.deleted_at]
    columns = [*_new_links(new), *_documents(state), *_columns(state.outbox, 5)]
    if old or replies:
        columns += _old_links(old)
        columns += _columns([(r.workspace_id, *r.idempotency, *r.reply[:2]) for r in replies], 5)
    statement = WRITE_ALL if old or replies else WRITE_NEW
    xid = await connection.fetchval(statement, state.moment, *columns)
    if state.outbox:
        return Witness(xid, event_id=state.outbox[0].event_id)
    return Witness(xid, None, replies[0].workspace_id, *replies[0].idempotency) if replies else None


Columns = Sequence[Sequence[object]]


def _new_links(links: Sequence[LinkRow]) -> Columns:
    return _columns(
        [(t[0], t[1], link.id, t[2], t[3], link.role) for link in links for t in (link.triple,)], 6
    )


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
    return _columns(rows, 4)


def _columns(rows: Sequence[Sequence[object]], width: int) -> Columns:
    """Turn rows into one array for each column."""
    return list(zip(*rows, strict=True)) if rows else list(repeat((), width))
