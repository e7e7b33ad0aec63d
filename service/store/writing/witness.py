"""Finding out whether a COMMIT without an answer took effect, from a row that only its transaction wrote."""

import asyncio
from datetime import datetime
from typing import TYPE_CHECKING, Final, Literal, NamedTuple, Protocol, TypeVar, cast

import asyncpg

from service.core.errors import Unavailable
from service.core.values import LinkKey
from service.store.database import (
    CONNECTION_ERRORS,
    INDEXES_ONLY,
    REFUSAL_ERRORS,
    Database,
    Server,
    noticing_loss,
)

if TYPE_CHECKING:
    from service.store.database import Connection

STATUS: Final = "SELECT pg_xact_status($1::xid8)"

FOUND: Final = """
SELECT EXISTS (SELECT FROM outbox WHERE xid = $1::xid8 AND event_id = $2)
    OR EXISTS (SELECT FROM idempotency_keys WHERE workspace_id = $4 AND scope = $5 AND created_at = $3)
    OR EXISTS (SELECT FROM documents WHERE workspace_id = $4 AND id = $6 AND updated_at = $3)
    OR EXISTS (
        SELECT FROM entities
        WHERE workspace_id = $4 AND type = $7 AND id = $8 AND $3 IN (created_at, deleted_at)
    )
"""

WAIT_BRIEFLY: Final = f"SET LOCAL lock_timeout = '1s'; {INDEXES_ONLY}"
LOCK_DOCUMENT: Final = """
SELECT FROM documents WHERE workspace_id = $1 AND id = $2 FOR NO KEY UPDATE
"""
# `sent` is earlier than the link, if it was written. The last column: whether it may have been erased since.
# An erased document has a tombstone, and a transaction of at most 10.5 s may have made it again. Before links
# are erased, they are removed: so a document that had the link had two events, the last one since.
FOUND_LINK: Final = """
SELECT clock_timestamp(), l.id, l.created_at, d.updated_at, d.revision,
    (t.id_hash IS NOT NULL AND (d.id IS NULL OR d.created_at >= sent - interval '15 s'))
    OR (
        d.version >= 2 AND d.updated_at >= sent
        AND (d.deleted_at IS NOT NULL OR e.id IS NULL OR e.created_at >= sent)
    )
FROM (SELECT $5::timestamptz - interval '2 s' AS sent) AS s
LEFT JOIN documents AS d ON d.workspace_id = $1 AND d.id = $2
LEFT JOIN LATERAL (
    SELECT id, entity_id, created_at
    FROM document_links
    WHERE workspace_id = d.workspace_id AND document_id = d.id AND entity_type = $3 AND entity_id >= $4
    ORDER BY entity_id -- only document_links_triple_key has this order
    LIMIT 1
) AS l ON l.entity_id = $4
LEFT JOIN entities AS e ON e.workspace_id = $1 AND e.type = $3 AND e.id = $4
LEFT JOIN erased_documents AS t ON t.workspace_id = $1 AND t.id_hash = sha256(convert_to($2, 'UTF8'))
"""

LOOK_UP_DEADLINE_S: Final = 5.0
"""The longest look-up of a witness. After it the outcome is unknown, and the caller is answered 503."""
LOOK_UP_INTERVAL_S: Final = 0.05
"""The pause between two attempts of a look-up."""


class Witness(NamedTuple):
    """A row that only this transaction wrote: if the row is found, the transaction was committed.

    The row is an event; or a stored reply, a document or an entity with the time of this transaction.
    """

    xid: int = 0
    event_id: str | None = None
    written_at: datetime | None = None
    workspace_id: str | None = None
    scope: bytes | None = None
    document_id: str | None = None
    entity_type: str | None = None
    entity_id: str | None = None

    @property
    def may_be_gone(self) -> bool:
        """Whether a later transaction may have replaced the row's time, or removed the row."""
        return self.event_id is None

    async def look_up(self, connection: "Connection", *, same_server: bool) -> bool | None:
        """Return whether the transaction was committed; None: not known yet.

        A primary of another cluster or timeline may have diverged before the transaction: there a found
        witness is proof, and a missing one is none.
        """
        # The status is read first: if the transaction has ended by then, the next statement sees its rows.
        status = await _status(connection, self.xid)
        if await connection.fetchval(FOUND, *self):
            return True
        if status == "in progress" or not same_server:
            return None
        # A transaction with this xid was committed, but a later one may have removed the row: not known.
        return None if status == "committed" and self.may_be_gone else False


class Found(NamedTuple):
    """What the transaction of a LinkWitness has written: the link's time, and the document's revision.

    `revision` is None if another transaction has changed the document since.
    """

    written_at: datetime
    revision: int | None


class LinkWitness(NamedTuple):
    """A new link whose id has this random end: if it is found, its transaction was committed.

    A statement that is a transaction of its own has no xid that could be known before. But it writes nothing
    if it has the document's lock later than `latest`, a time of the database's clock. So after that time, and
    with that lock, a link that is not there will not come.
    """

    key: LinkKey
    id_end: str
    latest: datetime

    async def look_up(
        self, connection: "Connection", *, same_server: bool
    ) -> Found | Literal[False] | None:
        """Return what was written, False if nothing was, None if that is not known yet."""
        async with connection.transaction(isolation="read_committed"):
            await connection.execute(WAIT_BRIEFLY)
            await connection.execute(LOCK_DOCUMENT, *self.key.document)
            ends = (*self.key.document, *self.key.entity[1:])
            row = await connection.fetchrow(FOUND_LINK, *ends, self.latest)
        now, link_id, created_at, updated_at, revision, erased = cast("asyncpg.Record", row)
        if link_id is not None and str(link_id).endswith(self.id_end):
            return Found(created_at, revision if created_at == updated_at else None)
        return False if same_server and now > self.latest and not erased else None


T_co = TypeVar("T_co", covariant=True)
T = TypeVar("T")


class AnyWitness(Protocol[T_co]):
    """A Witness or a LinkWitness."""

    async def look_up(
        self, connection: "Connection", *, same_server: bool
    ) -> T_co | Literal[False] | None:
        """Return the outcome, False if nothing was committed, None if that is not known yet."""


async def outcome_of(
    database: Database, witness: AnyWitness[T], server: Server | None
) -> T | Literal[False]:
    """Look the witness up on new connections until the outcome of the transaction is certain.

    `server` is the server that the transaction ran on; None: not known.

    Raises:
        Unavailable: it was not found out in time.
    """
    try:
        async with asyncio.timeout(LOOK_UP_DEADLINE_S):
            while True:
                outcome = await _look_up(database, witness, server)
                if outcome is not None:
                    return outcome
                await asyncio.sleep(LOOK_UP_INTERVAL_S)
    except TimeoutError:
        detail = "the connection broke during COMMIT: whether it was written is not known yet"
        raise Unavailable(detail) from None


async def _look_up(
    database: Database, witness: AnyWitness[T], server: Server | None
) -> T | Literal[False] | None:
    """Look the witness up once; None: not known yet. A standby may lag, so it is not asked."""
    try:
        connection = await database.connect()
    except (*CONNECTION_ERRORS, *REFUSAL_ERRORS):
        return None
    try:
        if connection.server is None or connection.server.in_recovery:
            return None
        with noticing_loss(connection):
            return await witness.look_up(connection, same_server=connection.server == server)
    except (*CONNECTION_ERRORS, asyncpg.PostgresError):
        return None
    finally:
        connection.terminate()


async def _status(connection: "Connection", xid: int) -> str | None:
    """Return `in progress`, `committed` or `aborted`; None: it is in the future, or too old."""
    try:
        status: str | None = await connection.fetchval(STATUS, xid)
    except asyncpg.InvalidParameterValueError:
        return None  # the xid is "in the future": a crash lost the transaction
    return status
