"""One transaction: BEGIN, COMMIT, retries, and finding out whether a COMMIT without an answer took effect."""

import asyncio
from collections.abc import Awaitable, Callable
from datetime import datetime
from typing import TYPE_CHECKING, Final, NamedTuple

import asyncpg

from service.core.errors import Unavailable
from service.core.writes import LOCK_TIMEOUT_MS
from service.store.database import (
    CONNECTION_ERRORS,
    INDEXES_ONLY,
    LOST_ERRORS,
    REFUSAL_ERRORS,
    RETRY_ERRORS,
    STATEMENTS_LOST,
    USE_A_POOLER_THAT_KEEPS_THEM,
    Database,
    Server,
    is_lost,
    noticing_loss,
    roll_back,
    terminate,
)

if TYPE_CHECKING:
    from service.store.database import Connection

BEGIN: Final = """
BEGIN ISOLATION LEVEL READ COMMITTED;
SET LOCAL statement_timeout = 0;
SET LOCAL idle_in_transaction_session_timeout = '10s'
"""
"""Overrides the defaults of the role and the database. If statement_timeout fires while COMMIT waits for a
synchronous standby, Postgres commits on the primary alone and sends only a warning (manual,
runtime-config-replication). A process that hangs loses its locks after 10 s."""

BEGIN_WAITING: Final = f"{BEGIN}; SET LOCAL lock_timeout = {{}}; {INDEXES_ONLY}"

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

ATTEMPTS: Final = 3
"""How often a write is tried while its attempts end without a commit."""
DEADLINE_S: Final = 10.5
"""The longest time of all attempts together. With the time in a queue, a caller is answered within 15 s."""
LOOK_UP_DEADLINE_S: Final = 5.0
"""The longest look-up of a witness. After it the outcome is unknown, and the caller is answered 503."""
LOOK_UP_INTERVAL_S: Final = 0.05
"""The pause between two attempts of a look-up."""


class Witness(NamedTuple):
    """A row that only this transaction wrote: if the row is found, the transaction was committed.

    The row is an event; or a stored reply, a document or an entity with the time of this transaction.
    The xid is no proof: after a crash Postgres assigns xids again whose WAL was not flushed.
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
    def may_be_overwritten(self) -> bool:
        """Whether a later transaction may have replaced the row's time."""
        return self.event_id is None and self.scope is None


class NotCommitted(Exception):  # noqa: N818 - a reason to retry, not a failure
    """The transaction was interrupted and is not committed: retry it."""


class Appeared(Exception):  # noqa: N818 - likewise
    """Another transaction inserted a row after this one failed to find and lock it: retry."""


Execute = Callable[["Connection"], Awaitable[Witness | None]]


async def transact(
    database: Database,
    connection: "Connection",
    execute: Execute,
    *,
    lock_timeout_ms: int | None = None,
) -> Witness | None:
    """Run `execute` in a transaction, commit, and return the witness; None: nothing was written.

    `lock_timeout_ms` is the longest wait for each lock. None: the transaction waits for no lock, and the
    message that ends it also begins the next one; it may have been begun in this way itself.

    Raises:
        NotCommitted: the transaction was interrupted, and nothing was written.
        Unavailable: the database does not answer; or the connection broke during COMMIT, and the outcome
            was not found out in time.
    """
    waits = lock_timeout_ms is not None
    begin = BEGIN_WAITING.format(lock_timeout_ms) if waits else BEGIN
    then = "" if waits else f";{BEGIN}"
    server: Server | None = getattr(connection, "server", None)  # the pool's proxy passes it on
    witness = await _run(database, connection, execute, begin)
    if witness is None:
        await roll_back(connection, then=then)  # unlike COMMIT, it does not flush WAL
        return None
    try:
        await connection.execute(f"COMMIT{then}")
    except (*CONNECTION_ERRORS, *LOST_ERRORS) as error:
        terminate(connection)  # the state of its protocol is unknown
        if not await _was_committed(database, witness, server):
            raise NotCommitted from error
    except RETRY_ERRORS as error:
        raise NotCommitted from error
    return witness


async def _run(
    database: Database, connection: "Connection", execute: Execute, begin: str
) -> Witness | None:
    """Run `execute` up to the COMMIT; if it fails, roll back or drop the connection."""
    try:
        if not connection.is_in_transaction():
            await connection.execute(begin)
        return await execute(connection)
    except TimeoutError as error:
        terminate(connection)
        raise Unavailable("the database does not answer; nothing was written") from error
    except (*CONNECTION_ERRORS, *STATEMENTS_LOST, asyncpg.ReadOnlySQLTransactionError) as error:
        if isinstance(error, STATEMENTS_LOST):
            database.statements_kept = False
        terminate(connection)  # a new connection may reach the primary
        raise NotCommitted from error
    except LOST_ERRORS as error:
        if not is_lost(connection, error):
            await roll_back(connection)
            raise
        terminate(connection)
        raise NotCommitted from error
    except RETRY_ERRORS as error:
        await roll_back(connection)
        raise NotCommitted from error
    except asyncio.CancelledError:
        terminate(connection)  # a ROLLBACK might wait as well
        raise
    except BaseException:
        await roll_back(connection)
        raise


async def transact_alone(
    database: Database, execute: Execute, *, lock_timeout_ms: int = LOCK_TIMEOUT_MS
) -> Witness | None:
    """Run `execute` in a transaction that waits for locks; retry if it was not committed.

    `lock_timeout_ms` is the longest wait for each lock.

    Raises:
        Unavailable: the database is unreachable, or a lock was not free in time.
    """
    try:
        async with asyncio.timeout(DEADLINE_S):
            return await _transact_alone(database, execute, lock_timeout_ms)
    except TimeoutError as error:
        detail = "the database does not answer: whether it was written is not known yet"
        raise Unavailable(detail) from error


async def _transact_alone(
    database: Database, execute: Execute, lock_timeout_ms: int
) -> Witness | None:
    last: Exception | None = None
    for _ in range(ATTEMPTS):
        try:
            async with database.acquire_to_wait() as connection:
                return await transact(
                    database, connection, execute, lock_timeout_ms=lock_timeout_ms
                )
        except (NotCommitted, Appeared) as error:
            last = error
    if last is not None and isinstance(last.__cause__, asyncpg.ReadOnlySQLTransactionError):
        raise Unavailable("the database is read-only; nothing was written") from last.__cause__
    if last is not None and isinstance(last.__cause__, STATEMENTS_LOST):
        raise Unavailable(USE_A_POOLER_THAT_KEEPS_THEM) from last.__cause__
    detail = f"all {ATTEMPTS} attempts were interrupted; nothing was written"
    raise Unavailable(detail) from last


async def _was_committed(database: Database, witness: Witness, server: Server | None) -> bool:
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
    # A transaction with this xid was committed, but a later one may have overwritten the row: not known.
    return None if status == "committed" and witness.may_be_overwritten else False


async def _status(connection: "Connection", xid: int) -> str | None:
    """Return `in progress`, `committed` or `aborted`; None: it is in the future, or too old."""
    try:
        status: str | None = await connection.fetchval(STATUS, xid)
    except asyncpg.InvalidParameterValueError:
        return None  # the xid is "in the future": a crash lost the transaction
    return status
