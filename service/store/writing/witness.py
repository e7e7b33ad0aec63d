"""Finding out whether a COMMIT without an answer took effect, from a row that only its transaction wrote."""

import asyncio
from datetime import datetime
from typing import TYPE_CHECKING, Final, NamedTuple

import asyncpg

from service.core.errors import Unavailable
from service.store.database import (
    CONNECTION_ERRORS,
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


async def was_committed(database: Database, witness: Witness, server: Server | None) -> bool:
    """Look the witness up on new connections until the outcome of the transaction is certain.

    `server` is the server that the transaction ran on; None: not known.
    """
    try:
        async with asyncio.timeout(LOOK_UP_DEADLINE_S):
            while True:
                committed = await _look_up(database, witness, server)
                if committed is not None:
                    return committed
                await asyncio.sleep(LOOK_UP_INTERVAL_S)
    except TimeoutError:
        detail = "the connection broke during COMMIT: whether it was written is not known yet"
        raise Unavailable(detail) from None


async def _look_up(database: Database, witness: Witness, server: Server | None) -> bool | None:
    """Return whether the transaction was committed; None: not known yet.

    A standby may lag, so it is not asked. A primary of another cluster or timeline may have diverged
    before the transaction: there a found witness is proof, and a missing one is none.
    """
    try:
        connection = await database.connect()
    except (*CONNECTION_ERRORS, *REFUSAL_ERRORS):
        return None
    try:
        if connection.server is None or connection.server.in_recovery:
            return None
        # The status is read first: if the transaction has ended by then, the next statement sees its rows.
        with noticing_loss(connection):
            status = await _status(connection, witness.xid)
            found = await connection.fetchval(FOUND, *witness)
    except (*CONNECTION_ERRORS, asyncpg.PostgresError):
        return None
    finally:
        connection.terminate()
    if found:
        return True
    if status == "in progress" or connection.server != server:
        return None
    # A transaction with this xid was committed, but a later one may have removed the row: not known.
    return None if status == "committed" and witness.may_be_gone else False


async def _status(connection: "Connection", xid: int) -> str | None:
    """Return `in progress`, `committed` or `aborted`; None: it is in the future, or too old."""
    try:
        status: str | None = await connection.fetchval(STATUS, xid)
    except asyncpg.InvalidParameterValueError:
        return None  # the xid is "in the future": a crash lost the transaction
    return status
