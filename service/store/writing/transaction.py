"""One transaction, to its certain end: committed, not committed, or honestly unknown."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Final, NamedTuple, TypeVar

import asyncpg

from service.core.errors import Unavailable
from service.store.database import (
    CONNECTION_ERRORS,
    INDEXES_ONLY,
    REFUSAL_ERRORS,
    RETRY_ERRORS,
    STATEMENTS_LOST,
    USE_A_POOLER_THAT_KEEPS_THEM,
    Database,
    Server,
    noticing_loss,
    roll_back,
    server_of,
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

AND_BEGIN: Final = f";{BEGIN}"
"""After the end of one transaction, in the same message: the beginning of the next."""

BEGIN_PATIENT: Final = f"{BEGIN}; SET LOCAL lock_timeout = '2s'; {INDEXES_ONLY}"

STATUS: Final = "SELECT pg_xact_status($1::xid8)"

FOUND: Final = """
SELECT EXISTS (SELECT FROM outbox WHERE xid = $1::xid8 AND event_id = $2)
    OR EXISTS (SELECT FROM idempotency_keys WHERE workspace_id = $3 AND scope = $4)
"""

ATTEMPTS: Final = 3
DEADLINE_S: Final = 10.5
"""For all attempts together: the caller is answered within 15 s, time in a queue included."""
LOOK_UP_DEADLINE_S: Final = 5.0
LOOK_UP_INTERVAL_S: Final = 0.05

T = TypeVar("T")


class Witness(NamedTuple):
    """A row that only this transaction wrote: if the row is there, the transaction was committed.

    The row is an event, or a row of idempotency_keys under a random scope. The xid alone is no
    proof: after a crash Postgres assigns the xids again whose WAL was not flushed.
    """

    xid: int
    event_id: str | None = None
    workspace_id: str | None = None
    scope: bytes | None = None


class NotCommitted(Exception):  # noqa: N818 - a fact, on which the caller retries
    """The connection broke, and the transaction did not take effect: do it again."""


class Appeared(Exception):  # noqa: N818 - likewise
    """A row that was not there to be locked was there to be read: do it again."""


Step = Callable[["Connection"], Awaitable[tuple[T, Witness | None]]]


async def transact(
    database: Database, connection: "Connection", step: Step[T], *, begin: str = "", then: str = ""
) -> T:
    """Run the step in a transaction and return its result once that is durable.

    Without `begin` the connection is in one already; `then` goes with its end. A step that returns
    no witness has written nothing and is rolled back: nothing to flush.

    Raises:
        NotCommitted: the connection broke, and nothing was written.
        Unavailable: the database does not answer; or the connection broke during COMMIT, and what
            became of it could not be found out in time.
    """
    server = server_of(connection)
    result, witness = await _run(connection, step, begin)
    if witness is None:
        await roll_back(connection, then=then)
        return result
    try:
        with noticing_loss(connection):
            await connection.execute(f"COMMIT{then}")
    except CONNECTION_ERRORS as error:
        terminate(connection)  # if it is there at all, what it is in the middle of is not known
        if not await _was_committed(database, witness, server):
            raise NotCommitted from error
    except RETRY_ERRORS as error:
        raise NotCommitted from error
    return result


async def _run(connection: "Connection", step: Step[T], begin: str) -> tuple[T, Witness | None]:
    """Run the step up to its COMMIT; if it fails, the transaction or its connection is ended."""
    try:
        with noticing_loss(connection):
            if begin:
                await connection.execute(begin)
            return await step(connection)
    except TimeoutError as error:
        terminate(connection)
        raise Unavailable("the database does not answer; nothing was written") from error
    except CONNECTION_ERRORS as error:
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


async def transact_alone(database: Database, step: Step[T], *, begin: str | None = None) -> T:
    """Run the step in a transaction of its own that waits for locks; again if nothing was written.

    `begin` begins the transaction; None: as BEGIN_PATIENT does.

    Raises:
        Unavailable: the database is away, or somebody held a lock for too long.
    """
    try:
        async with asyncio.timeout(DEADLINE_S):
            return await _transact_alone(database, step, begin or BEGIN_PATIENT)
    except TimeoutError as error:
        detail = "the database does not answer: whether it was written is not known yet"
        raise Unavailable(detail) from error


async def _transact_alone(database: Database, step: Step[T], begin: str) -> T:
    last: Exception | None = None
    for _ in range(ATTEMPTS):
        try:
            async with database.acquire_to_wait() as connection:
                return await transact(database, connection, step, begin=begin)
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
            running = await _is_running(connection, witness.xid)
            found = await connection.fetchval(FOUND, *witness)
    except (*CONNECTION_ERRORS, asyncpg.PostgresError):
        return None
    finally:
        connection.terminate()
    if found:
        return True
    return None if running or connection.server != server else False


async def _is_running(connection: "Connection", xid: int) -> bool:
    try:
        return bool(await connection.fetchval(STATUS, xid) == "in progress")
    except asyncpg.InvalidParameterValueError:
        return False  # "in the future": a crash lost the xid together with the transaction
