"""One transaction, to its certain end: committed, not committed, or honestly unknown."""

import asyncio
from collections.abc import Awaitable, Callable
from datetime import datetime
from typing import TYPE_CHECKING, Final, NamedTuple

import asyncpg

from service.core.errors import Unavailable
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
"""Whatever the defaults of the role and the database are.

A statement_timeout that fires while COMMIT waits for a synchronous standby makes Postgres commit on
the primary alone, and say so in a warning only (manual, runtime-config-replication). A process that
hangs must not keep documents locked.
"""

BEGIN_WAITING: Final = f"{BEGIN}; SET LOCAL lock_timeout = {{}}; {INDEXES_ONLY}"

LOCK_TIMEOUT_MS: Final = 2_000
"""The longest wait for a lock; then the caller is answered 503."""

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
DEADLINE_S: Final = 10.5
"""For all attempts together: the caller is answered within 15 s, time in a queue included."""
LOOK_UP_DEADLINE_S: Final = 5.0
LOOK_UP_INTERVAL_S: Final = 0.05


class Witness(NamedTuple):
    """A row that only this transaction wrote: if the row is there, the transaction was committed.

    The row is an event; or a stored reply, a document or an entity with the time of this transaction.
    The xid alone is no proof: after a crash Postgres assigns the xids again whose WAL was not flushed.
    """

    xid: int = 0
    event_id: str | None = None
    moment: datetime | None = None
    workspace_id: str | None = None
    scope: bytes | None = None
    document_id: str | None = None
    entity_type: str | None = None
    entity_id: str | None = None

    @property
    def may_be_overwritten(self) -> bool:
        """Whether a later transaction may have replaced the row's time."""
        return self.event_id is None and self.scope is None


class NotCommitted(Exception):  # noqa: N818 - a fact, on which the caller retries
    """The connection broke, and the transaction did not take effect: do it again."""


class Appeared(Exception):  # noqa: N818 - likewise
    """A row that was not there to be locked was there to be read: do it again."""


Execute = Callable[["Connection"], Awaitable[Witness | None]]


async def transact(
    database: Database,
    connection: "Connection",
    execute: Execute,
    *,
    lock_timeout_ms: int | None = None,
) -> Witness | None:
    """Execute in a transaction, and return its witness once that is durable; None: nothing was written.

    With `lock_timeout_ms` the transaction waits for locks. Without, it waits for none: the next one is
    begun in the same message that ends this one, and this one may have been begun so.

    Raises:
        NotCommitted: the connection broke, and nothing was written.
        Unavailable: the database does not answer; or the connection broke during COMMIT, and what
            became of it could not be found out in time.
    """
    waits = lock_timeout_ms is not None
    begin = BEGIN_WAITING.format(lock_timeout_ms) if waits else BEGIN
    then = "" if waits else f";{BEGIN}"
    server: Server | None = getattr(connection, "server", None)  # a proxy of the pool has it, too
    witness = await _run(connection, execute, begin)
    if witness is None:
        await roll_back(connection, then=then)  # nothing to flush
        return None
    try:
        await connection.execute(f"COMMIT{then}")
    except (*CONNECTION_ERRORS, *LOST_ERRORS) as error:
        terminate(connection)  # nothing is known of what it is in the middle of
        if not await _was_committed(database, witness, server):
            raise NotCommitted from error
    except RETRY_ERRORS as error:
        raise NotCommitted from error
    return witness


async def _run(connection: "Connection", execute: Execute, begin: str) -> Witness | None:
    """Execute up to the COMMIT; if that fails, the transaction or its connection is ended."""
    try:
        if not connection.is_in_transaction():
            await connection.execute(begin)
        return await execute(connection)
    except TimeoutError as error:
        terminate(connection)
        raise Unavailable("the database does not answer; nothing was written") from error
    except CONNECTION_ERRORS as error:
        terminate(connection)
        raise NotCommitted from error
    except LOST_ERRORS as error:
        if not is_lost(connection, error):
            await roll_back(connection)
            raise
        terminate(connection)
        raise NotCommitted from error
    except (asyncpg.ReadOnlySQLTransactionError, *STATEMENTS_LOST) as error:
        terminate(connection)  # a new connection may reach the primary
        raise NotCommitted from error
    except RETRY_ERRORS as error:
        await roll_back(connection)
        raise NotCommitted from error
    except asyncio.CancelledError:
        terminate(connection)  # a ROLLBACK might wait, too
        raise
    except BaseException:
        await roll_back(connection)
        raise


async def transact_alone(
    database: Database, execute: Execute, *, lock_timeout_ms: int = LOCK_TIMEOUT_MS
) -> Witness | None:
    """Execute in a transaction that waits for locks; again if nothing was written.

    `lock_timeout_ms` is the longest wait for each lock.

    Raises:
        Unavailable: the database is away, or somebody held a lock for too long.
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
    raise Unavailable("the database was interrupted again and again; nothing was written") from last


async def _was_committed(database: Database, witness: Witness, server: Server | None) -> bool:
    """Look for what the transaction wrote on that server, on a new connection, until it is certain."""
    try:
        async with asyncio.timeout(LOOK_UP_DEADLINE_S):
            while True:
                answer = await _look(database, witness, server)
                if answer is not None:
                    return answer
                await asyncio.sleep(LOOK_UP_INTERVAL_S)
    except TimeoutError:
        detail = "the database went away while it was writing: whether it did is not known yet"
        raise Unavailable(detail) from None


async def _look(database: Database, witness: Witness, server: Server | None) -> bool | None:
    """Return whether it was committed; None if that is not known yet.

    A standby may lag, so it is not asked. A primary of another cluster or timeline may have parted
    from the server before the transaction: what it has is true, what it has not proves nothing.
    """
    try:
        connection = await database.connect()
    except (*CONNECTION_ERRORS, *REFUSAL_ERRORS):
        return None
    try:
        if connection.server is None or connection.server.in_recovery:
            return None
        # In this order: what was no longer in progress before the look is seen by the look.
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
    # A transaction of that xid was committed, and has overwritten the row, or was overwritten: not known.
    return None if status == "committed" and witness.may_be_overwritten else False


async def _status(connection: "Connection", xid: int) -> str | None:
    """Return whether a transaction is in progress, was committed or aborted; None: it has not begun yet."""
    try:
        status: str | None = await connection.fetchval(STATUS, xid)
    except asyncpg.InvalidParameterValueError:
        return None  # "in the future": a crash lost the xid together with the transaction
    return status
