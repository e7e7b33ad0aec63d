"""Rows of `documents`, and the transaction that writes a whole document with its links."""

import asyncio
from collections.abc import AsyncIterator
from functools import partial
from typing import TYPE_CHECKING, Final

from msgspec.structs import replace

from service.core.changes import Change, DocumentState, EntityKey, LinkRow, Triple
from service.core.decide import Draft, State
from service.core.documents import (
    CAUSE_OF,
    DocumentOutcome,
    DocumentRequest,
    DocumentRow,
    admit,
    check,
    link_changes,
    row_after,
    same_fields,
    unlink_all,
)
from service.core.errors import TooLarge
from service.core.ids import uuid7
from service.core.requests import Reply
from service.store.database import Database
from service.store.reading import READ, link_pages, row_of
from service.store.writing.counts import LinkCounter
from service.store.writing.execute import replay_one
from service.store.writing.group import GroupWriter
from service.store.writing.notify import Notifier
from service.store.writing.registration import register_entities
from service.store.writing.statements import StoredReply, empty_state, lock_and_read, write_changes
from service.store.writing.transaction import Appeared, Witness, transact_alone

if TYPE_CHECKING:
    from service.store.database import Connection

LOCK: Final = f"{READ} FOR NO KEY UPDATE"

# Metadata as it would be stored: jsonb writes numbers out, sorts keys and drops a zero's sign.
STORED_FORM: Final = """
SELECT CASE WHEN octet_length(m::text) <= $2 THEN m END
FROM (SELECT $1::jsonb AS m OFFSET 0) AS given
"""

MAX_METADATA_BYTES: Final = 2 << 20
"""Of the stored form: `1e300` is five bytes in a body, and 301 in every answer."""

MAKE: Final = """
INSERT INTO documents (workspace_id, id)
VALUES ($1, $2)
ON CONFLICT DO NOTHING
RETURNING true
"""

WRITE_FIELDS: Final = """
UPDATE documents
SET display_name = $3, category = $4, metadata = $5, deleted_at = $6, deletion_id = $7
WHERE workspace_id = $1 AND id = $2
"""


SLICE: Final = 100
"""Links that are decided about and written at once: about five milliseconds of the event loop's time."""


class DocumentWriter:
    """Writes whole documents, each in a transaction of its own: what it inserts, a refusal undoes.

    A document may have thousands of links. They are decided about and written a slice at a time, so
    that neither the event loop nor a statement is busy for long, and no slice's events stay in memory.
    """

    def __init__(
        self,
        database: Database,
        notifier: Notifier,
        group: GroupWriter,
        counter: LinkCounter,
        *,
        register_unknown: bool,
    ) -> None:
        self._database = database
        self._notifier = notifier
        self._group = group
        self._counter = counter
        self._register_unknown = register_unknown

    async def write(self, request: DocumentRequest) -> Reply:
        """Write the request and return its answer once that is durable.

        Raises:
            Refusal: nothing was written, except where Unavailable says that this is not known.
        """
        async with self._group.turns.take([request.key]):
            reply, wrote_events = await transact_alone(
                self._database, partial(self._execute, request=request)
            )
        if wrote_events:
            self._notifier.notify()
        return reply

    async def _execute(
        self, connection: "Connection", request: DocumentRequest
    ) -> tuple[tuple[Reply, bool], Witness | None]:
        """Lock, read, decide and write, inside the transaction."""
        stored = await replay_one(connection, request.caller.workspace_id, request.idempotency)
        if stored is not None:
            return (stored, False), None
        request = await _in_stored_form(connection, request)
        made = False
        if request.operation in {"create", "put"}:
            made = bool(await connection.fetchval(MAKE, *request.key))
        before = admit(request, row_of(await connection.fetchrow(LOCK, *request.key)), made=made)
        state = await self._read(connection, request, before)
        await self._counter.count(connection, state, len(request.edits.add))
        check(state, request, before, made=made)
        draft = _draft(request, state, before, made=made)
        returns = request.operation == "put" and before.deleted_at is not None
        outcome = DocumentOutcome(row_after(request, before, draft), created=made or returns)
        written = await self._write_links(connection, request, draft, before, outcome)
        if made or written is not None or not same_fields(outcome.row, before):
            draft.keep()
        else:
            draft.documents.clear()  # nothing to write
        return await self._write_document(connection, request, draft, before, outcome, written)

    async def _read(
        self, connection: "Connection", request: DocumentRequest, before: DocumentRow
    ) -> State:
        """Read the links that the request may be about; lock and read their entities."""
        links: dict[Triple, LinkRow] = {}
        if request.edits.set is not None or (before.deletion_id and request.operation == "restore"):
            deletion_id = before.deletion_id if request.operation == "restore" else None
            async for page in link_pages(connection, request.key, deletion_id):
                links.update((link.triple, link) for link in page)
        restored = links if request.operation == "restore" else ()
        triples = sorted({*request.edits.wanted, *request.edits.remove, *restored})
        if not triples:
            state = await empty_state(connection)
        else:
            used = {triple.entity for triple in request.edits.wanted}
            state = await self._lock_entities(connection, triples, used)
        state.links = {**state.links, **links} if restored else {**links, **state.links}
        state.stored_links.update(links)
        return state

    async def _lock_entities(
        self, connection: "Connection", triples: list[Triple], used: set[EntityKey]
    ) -> State:
        """Lock and read; where the policy is `any`, register what is used. A restore uses nothing."""
        state, unheld = await lock_and_read(connection, triples, patient=True)
        missing = used - state.entities
        if missing and self._register_unknown:
            await register_entities(connection, sorted(missing))
            state, unheld = await lock_and_read(connection, triples, patient=True)
        if unheld:
            raise Appeared
        return state

    async def _write_links(
        self,
        connection: "Connection",
        request: DocumentRequest,
        draft: Draft,
        before: DocumentRow,
        outcome: DocumentOutcome,
    ) -> Witness | None:
        """Decide about the links and write them, a slice at a time; None: nothing changed."""
        written = None
        async for changes in _slices(connection, request, draft.state, before):
            for change in changes:
                outcome.add(draft.apply(change))
            draft.hand_over()
            written = await write_changes(connection, draft.state, [], witness=written)
            draft.state.forget_written()
        return written

    async def _write_document(  # noqa: PLR0913, PLR0917 - what a transaction knows at its end
        self,
        connection: "Connection",
        request: DocumentRequest,
        draft: Draft,
        before: DocumentRow,
        outcome: DocumentOutcome,
        written: Witness | None,
    ) -> tuple[tuple[Reply, bool], Witness | None]:
        """Write the document's own row, and the reply if it is to be stored."""
        state, row = draft.state, outcome.row
        outcome.changed = request.key in state.written_documents
        if outcome.changed:
            counters = state.documents[request.key]
            outcome.row = replace(
                row,
                version=counters.version,
                revision=counters.revision,
                updated_at=state.moment,
            )
        if not same_fields(row, before):
            values = (row.display_name, row.category, row.metadata, row.deleted_at, row.deletion_id)
            await connection.execute(WRITE_FIELDS, *request.key, *values)
        reply = await request.respond(outcome, link_pages(connection, request.key))
        if not outcome.changed and request.idempotency is None:
            return (reply, False), None
        replies = []
        if request.idempotency is not None:
            replies.append(StoredReply(request.key[0], request.idempotency, reply))
        witness = await write_changes(connection, state, replies, witness=written)
        return (reply, written is not None), witness


def _draft(request: DocumentRequest, state: State, before: DocumentRow, *, made: bool) -> Draft:
    """Return what the request is decided on: the document as active, not yet written to."""
    deletion_id = uuid7(state.moment_us) if request.operation == "delete" else None
    draft = Draft(state, request.caller, CAUSE_OF[request.operation], deletion_id=deletion_id)
    # Being made is the first write, revision 1.
    draft.documents[request.key] = DocumentState(before.version, before.revision - made)
    return draft


async def _in_stored_form(connection: "Connection", request: DocumentRequest) -> DocumentRequest:
    """Return the request with its metadata as Postgres would store it, to be compared with the row's."""
    if not isinstance(request.fields.metadata, str):
        return request
    metadata = await connection.fetchval(STORED_FORM, request.fields.metadata, MAX_METADATA_BYTES)
    if metadata is None:
        raise TooLarge(
            f"metadata takes more than {MAX_METADATA_BYTES} bytes with its numbers written out: "
            "store less of it, or large numbers as text"
        )
    return replace(request, fields=replace(request.fields, metadata=metadata))


async def _slices(
    connection: "Connection", request: DocumentRequest, state: State, before: DocumentRow
) -> AsyncIterator[list[Change]]:
    """Yield the request's changes of links. A deletion reads its links only as it comes to them."""
    if request.operation != "delete":
        changes = link_changes(state, request, before)
        await asyncio.sleep(0)  # of 5,000 links, to check and to compare them takes 10 ms each
        for start in range(0, len(changes), SLICE):
            yield changes[start : start + SLICE]
        return
    async for page in link_pages(connection, request.key, size=SLICE):
        state.links = {link.triple: link for link in page}
        state.stored_links = set(state.links)
        yield unlink_all(page)
