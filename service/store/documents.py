"""Rows of `documents`, and the transaction that writes a whole document with its links."""

import uuid
from functools import partial
from typing import TYPE_CHECKING, Final

from msgspec.structs import replace

from service.core.changes import DocumentKey, EntityKey, LinkRow, Triple
from service.core.decide import Draft, State
from service.core.documents import (
    CAUSE_OF,
    DocumentOutcome,
    DocumentRequest,
    DocumentRow,
    decide_document,
    same_fields,
)
from service.core.errors import NotFound
from service.core.requests import Reply
from service.store.database import Database
from service.store.execute import replay_one
from service.store.group import GroupWriter
from service.store.notify import Notifier
from service.store.registration import register_entities
from service.store.transaction import Appeared, Witness, transact_alone
from service.store.write import StoredReply, empty_state, lock_and_read, write_changes

if TYPE_CHECKING:
    import asyncpg

    from service.store.database import Connection

READ: Final = """
SELECT id, version, revision, display_name, category, metadata,
    created_at, updated_at, deleted_at, deletion_id
FROM documents
WHERE workspace_id = $1 AND id = $2
"""

LOCK: Final = f"{READ} FOR NO KEY UPDATE"

# Metadata as it would be stored: jsonb writes numbers out, sorts keys and drops a zero's sign.
STORED_FORM: Final = "SELECT $1::jsonb"

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

# Active links, and those that went with the document's deletion: all that deciding may need.
LINKS: Final = """
SELECT entity_type, entity_id, id, role, created_at, deleted_at, deleted_cause, deletion_id
FROM document_links
WHERE workspace_id = $1 AND document_id = $2 AND (deleted_at IS NULL OR deletion_id = $3)
"""


async def read_document(database: Database, key: DocumentKey) -> tuple[DocumentRow, list[LinkRow]]:
    """Return an active document and its active links, oldest first, as of one moment.

    Raises:
        NotFound: there is none.
    """
    async with database.reading() as connection:
        row = _row(await connection.fetchrow(READ, *key))
        if row is None or row.deleted_at is not None:
            raise NotFound(f"document {key[1]!r} does not exist")
        links = await _links(connection, key, None)
    return row, sorted(links, key=lambda link: (link.created_at, link.id))


class DocumentWriter:
    """Writes whole documents, each in a transaction of its own: what it inserts, a refusal undoes."""

    def __init__(
        self, database: Database, notifier: Notifier, group: GroupWriter, *, register_unknown: bool
    ) -> None:
        self._database = database
        self._notifier = notifier
        self._group = group
        self._register_unknown = register_unknown

    async def write(self, request: DocumentRequest) -> Reply:
        """Write the request and return its answer once that is durable.

        Raises:
            Refusal: nothing was written, except where Unavailable says that this is not known.
        """
        with self._group.ahead_of_the_queue([request.key]):
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
        before = _row(await connection.fetchrow(LOCK, *request.key))
        draft = Draft(
            await self._read(connection, request, before),
            request.caller,
            CAUSE_OF[request.operation],
        )
        outcome = decide_document(draft, request, before, made=made)
        return await self._write(connection, request, draft.state, before, outcome)

    async def _read(
        self, connection: "Connection", request: DocumentRequest, before: DocumentRow | None
    ) -> State:
        """Read the document's links; lock the entities that links are to be made to, and read those."""
        deletion_id = (
            before.deletion_id if before is not None and request.operation == "restore" else None
        )
        links = {link.triple: link for link in await _links(connection, request.key, deletion_id)}
        triples = sorted(
            {*request.edits.wanted, *(t for t, link in links.items() if link.deleted_at)}
        )
        if triples:
            used = {triple.entity for triple in request.edits.wanted}
            state = await self._lock_entities(connection, triples, used)
        else:
            state = await empty_state(connection)
        state.links.update(links)
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

    async def _write(
        self,
        connection: "Connection",
        request: DocumentRequest,
        state: State,
        before: DocumentRow | None,
        outcome: DocumentOutcome,
    ) -> tuple[tuple[Reply, bool], Witness | None]:
        reply, row = request.respond(outcome), outcome.row
        if not state.written_documents and request.idempotency is None:
            return (reply, False), None
        if before is None or not same_fields(row, before):
            values = (row.display_name, row.category, row.metadata, row.deleted_at, row.deletion_id)
            await connection.execute(WRITE_FIELDS, *request.key, *values)
        replies = []
        if request.idempotency is not None:
            replies.append(StoredReply(request.key[0], request.idempotency, reply))
        return (reply, bool(state.outbox)), await write_changes(connection, state, replies)


def _row(record: "asyncpg.Record | None") -> DocumentRow | None:
    return None if record is None else DocumentRow(**dict(record))


async def _in_stored_form(connection: "Connection", request: DocumentRequest) -> DocumentRequest:
    """Return the request with its metadata as Postgres would store it, to be compared with the row's."""
    if not isinstance(request.fields.metadata, str):
        return request
    metadata = await connection.fetchval(STORED_FORM, request.fields.metadata)
    return replace(request, fields=replace(request.fields, metadata=metadata))


async def _links(
    connection: "Connection", key: DocumentKey, deletion_id: uuid.UUID | None
) -> list[LinkRow]:
    rows = await connection.fetch(LINKS, *key, deletion_id)
    return [LinkRow(Triple(*key, *row[:2]), *row[2:]) for row in rows]
