"""Connections to Postgres, and which of its errors mean that it is unreachable."""

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager, nullcontext, suppress
from typing import TYPE_CHECKING, Final, NamedTuple, Self, cast

import asyncpg

from service.core.errors import Busy, Unavailable
from service.logs import first_line
from service.measures import Measures
from service.store.clock import ServerClock
from service.store.postgres import connection as postgres_connection
from service.store.postgres.connection import Connector, EncodingError
from service.store.postgres.tls import TlsError
from service.store.postgres.url import UrlError

if TYPE_CHECKING:
    Connection = (
        asyncpg.Connection[asyncpg.Record] | asyncpg.pool.PoolConnectionProxy[asyncpg.Record]
    )
    Pool = asyncpg.Pool[asyncpg.Record]

APPLICATION: Final = "document-links"
COMMAND_TIMEOUT_S: Final = 10.0
"""The longest wait for the answer to a statement, and the longest pause inside a transaction."""
CLOSE_TIMEOUT_S: Final = 2.0
"""The longest wait for the pool to close at shutdown: a connection that the network lost does not close."""
ACQUIRE_TIMEOUT_S: Final = 5.0
"""The longest wait for a free connection of the pool."""
NO_CONNECTION: Final = f"no connection of the pool was free within {ACQUIRE_TIMEOUT_S:g} s"
WRITERS_PERCENT: Final = 80
"""The share of the pool's connections that may wait for locks, in percent. The rest is left to reads."""
TURNS: Final = 10
"""How often two sessions alternate to find out whether a pooler keeps their prepared statements."""
ROLLBACK_TIMEOUT_S: Final = 1.0
"""The longest wait for a ROLLBACK, while a caller waits. After it the connection is dropped instead."""

CONNECTION_ERRORS: Final = (
    OSError,
    TimeoutError,
    asyncpg.PostgresConnectionError,  # class 08
    asyncpg.OperatorInterventionError,  # class 57: shut down, crashed, starting up, canceled
    asyncpg.IdleInTransactionSessionTimeoutError,  # 25P03: this process has hung
    asyncpg.TransactionTimeoutError,  # 25P04
    asyncpg.StatementCompletionUnknownError,  # 40003
)
"""The connection has ended, or was never made. Whether a COMMIT sent on it took effect is unknown."""

RETRY_ERRORS: Final = (
    asyncpg.TransactionRollbackError,  # class 40: serialization failure, deadlock
    asyncpg.SnapshotTooOldError,
    asyncpg.InvalidCachedStatementError,  # the schema has changed since the statement was prepared
)
"""Postgres rolled the transaction back, and the same transaction may succeed at once."""

REFUSAL_ERRORS: Final = (
    asyncpg.InsufficientResourcesError,  # class 53: disk full, out of memory, too many connections
    asyncpg.ProgramLimitExceededError,  # 54000: out of transaction ids
    asyncpg.ObjectNotInPrerequisiteStateError,  # class 55: a lock not available, recovery going on
    asyncpg.PostgresSystemError,  # class 58: an input/output error
    asyncpg.ReadOnlySQLTransactionError,  # a standby, or default_transaction_read_only
    asyncpg.InvalidAuthorizationSpecificationError,  # class 28
    asyncpg.InsufficientPrivilegeError,
    asyncpg.InvalidCatalogNameError,
    asyncpg.InvalidSchemaNameError,
    asyncpg.UndefinedTableError,  # not migrated yet
    asyncpg.UndefinedFunctionError,
)
"""Postgres answers, but refuses the statement in its present state; nothing was written."""

LOST_ERRORS: Final = (asyncpg.InternalClientError, asyncpg.InterfaceError)
"""Errors that asyncpg raises on a connection that has ended, and for other reasons: see `is_lost`."""

STATEMENTS_LOST: Final = (
    asyncpg.DuplicatePreparedStatementError,
    asyncpg.InvalidSQLStatementNameError,
    asyncpg.ProtocolViolationError,
)
"""A prepared statement is missing, or is another session's: a pooler has switched the server connection."""

USE_A_POOLER_THAT_KEEPS_THEM: Final = (
    "the pooler before the database does not keep prepared statements; nothing was written: use PgBouncer "
    "1.21 or later with max_prepared_statements, pool_mode=session, or the server's own address"
)
HELD_TOO_LONG: Final = "another write has held a lock for too long; nothing was written"
BACKEND: Final = "SELECT pg_backend_pid()"

INDEXES_ONLY: Final = """
SET LOCAL enable_seqscan = off;
SET LOCAL enable_bitmapscan = off;
SET LOCAL enable_hashjoin = off;
SET LOCAL enable_mergejoin = off;
SET LOCAL enable_material = off;
SET LOCAL enable_sort = off;
SET LOCAL jit = off
"""
"""Planner settings for statements that may be planned while the tables are empty. The plan would be a
sequential scan, or a whole index read and materialized, and the session would keep it. A disabled plan node
that is still needed has a cost of 1e10, which triggers JIT before Postgres 18; so JIT is off as well.
SET LOCAL works behind a transaction pooler, too."""

BEGIN_READING: Final = f"BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY; {INDEXES_ONLY}"


# pg_current_wal_lsn() raises an error in recovery.
SERVER: Final = """
SELECT clock_timestamp(), pg_is_in_recovery(), s.system_identifier,
    CASE WHEN NOT pg_is_in_recovery() THEN left(pg_walfile_name(pg_current_wal_lsn()), 8) END
FROM pg_control_system() AS s
"""
IN_RECOVERY: Final = "SELECT clock_timestamp(), pg_is_in_recovery()"


class Server(NamedTuple):
    """The server that a connection has reached: whether it is a standby, its cluster and timeline.

    The system identifier and the timeline are None if the role may not read them; a standby has no timeline.
    """

    in_recovery: bool
    system_identifier: int | None = None
    timeline: str | None = None


class Session(postgres_connection.Connection):
    """A connection that remembers which server it reached."""

    server: Server | None = None
    clock: ServerClock
    """The server's clock."""


async def _identify(session: "Session") -> None:
    """Read the server's identity and clock, and keep them with the session."""
    try:
        row = await session.fetchrow(SERVER)
    except asyncpg.PostgresError:  # not permitted, or not implemented by a managed Postgres
        row = await session.fetchrow(IN_RECOVERY)
    now, *server = cast("asyncpg.Record", row)
    session.clock = ServerClock(now)
    session.server = Server(*server)


class Database:
    """A pool that connects when it is first needed, so that the service can start before Postgres."""

    def __init__(self, dsn: str, *, pool_size: int, measures: Measures | None = None) -> None:
        self.measures = measures or Measures()
        self._connector = Connector(
            dsn,
            APPLICATION,
            COMMAND_TIMEOUT_S,
            Session,
            idle_in_transaction_session_timeout=f"{COMMAND_TIMEOUT_S:g}s",
        )
        self.statements_kept = False
        """Whether sessions have been seen to keep their prepared statements, and none has lost one since."""
        self._writers = asyncio.Semaphore(max(1, pool_size * WRITERS_PERCENT // 100))
        self._turns = asyncio.Semaphore(pool_size)
        self._pool: Pool = asyncpg.create_pool(
            connect=self._connect_for_pool,
            min_size=0,
            max_size=pool_size,
            reset=_nothing_to_reset,
            connection_class=Session,
        )

    async def __aenter__(self) -> Self:
        await self._pool
        return self

    async def __aexit__(self, *_: object) -> None:
        try:
            await asyncio.wait_for(self._pool.close(), CLOSE_TIMEOUT_S)
        except TimeoutError:
            self._pool.terminate()

    async def connect(self) -> Session:
        """Open a connection outside the pool.

        Raises:
            CONNECTION_ERRORS: the database is unreachable.
            REFUSAL_ERRORS: the database refuses the connection.
            UrlError, TlsError, EncodingError: the settings do not fit the database.
        """
        connection = await self._connector.connect()
        try:
            with noticing_loss(connection):
                await _identify(connection)
        except BaseException:
            connection.terminate()
            raise
        return connection

    async def _connect_for_pool(self, *_: object, **__: object) -> Session:
        return await self.connect()

    async def refreshed(self, connection: Session | None) -> Session:
        """Return the connection if it is usable, otherwise a new one; for connections outside the pool."""
        if connection is not None:
            if await connection.is_usable():
                return connection
            terminate(connection)
            await self._pool.expire_connections()
        return await self.connect()

    async def try_to_connect(self) -> None:
        """Connect once to find errors of the settings; an unreachable database is no error here.

        Raises:
            UrlError, TlsError, EncodingError: the settings do not fit the database.
        """
        try:
            connection = await self.connect()
        except (UrlError, TlsError, EncodingError):
            raise
        except (*CONNECTION_ERRORS, asyncpg.PostgresError, asyncpg.InterfaceError):
            return
        connection.terminate()

    async def keeps_statements(self) -> bool:
        """Return whether a session's prepared statements stay its own; True is remembered.

        Two sessions alternate, so that a transaction pooler has to switch their server connections. It
        takes the connection that was idle for the shortest time, and a third session may have used it in
        between. So the sessions alternate several times.
        """
        if self.statements_kept:
            return True
        sessions: list[Session] = []
        try:
            sessions += [await self.connect()]
            sessions += [await self.connect()]
            one, other = sessions
            for _ in range(TURNS):
                await one.fetchval(BACKEND)
                async with other.transaction():
                    await other.fetchval(BACKEND)
                    await one.fetchval(BACKEND)
        except STATEMENTS_LOST:
            return False
        except (asyncpg.InterfaceError, asyncpg.InternalClientError) as error:
            raise ConnectionResetError(first_line(error)) from error  # a session has ended
        finally:
            for session in sessions:
                session.terminate()
        self.statements_kept = True
        return True

    @asynccontextmanager
    async def acquire(self, *, ahead: bool = False) -> "AsyncIterator[Connection]":
        """Lend a connection of the pool, in the order of arrival; `ahead`: before those that wait for one.

        Raises:
            Unavailable: the database is unreachable, now or while the connection is in use.
        """
        with unavailable():
            async with nullcontext() if ahead else self._turn():
                connection = await self._acquire_usable()
                try:
                    with noticing_loss(connection):
                        yield connection
                    self.measures.database_unreachable = False
                except (TimeoutError, asyncio.CancelledError, asyncpg.ReadOnlySQLTransactionError):
                    terminate(connection)  # a cancel request or a ROLLBACK might wait as well
                    raise
                except STATEMENTS_LOST:
                    self.statements_kept = False
                    raise
                finally:
                    await self._pool.release(connection)

    @asynccontextmanager
    async def _turn(self) -> AsyncIterator[None]:
        """Wait until fewer tasks use the pool than it has connections; keep the turn until the context ends.

        The pool's own queue is not fair: a task that has waited for a connection goes to the end of the
        queue each time that a task that arrives later is faster.

        Raises:
            TimeoutError: there were ACQUIRE_TIMEOUT_S without a turn.
        """
        self.measures.pool_waiting += 1
        try:
            async with asyncio.timeout(ACQUIRE_TIMEOUT_S if self._turns.locked() else None):
                await self._turns.acquire()
        except TimeoutError as error:
            raise TimeoutError(NO_CONNECTION) from error
        finally:
            self.measures.pool_waiting -= 1
        try:
            yield
        finally:
            self._turns.release()

    @asynccontextmanager
    async def acquire_to_wait(self) -> "AsyncIterator[Connection]":
        """Lend a connection of the pool to a transaction that may wait for locks.

        Such transactions have at most WRITERS_PERCENT of the pool, so there are connections for reads.

        Raises:
            Unavailable: as `acquire`; or too many transactions wait for locks.
        """
        measures = self.measures
        measures.writers_waiting += 1
        try:
            async with asyncio.timeout(ACQUIRE_TIMEOUT_S):
                await self._writers.acquire()
        except TimeoutError as error:
            detail = "too many writes wait for locks; nothing was written"
            raise Busy(detail) from error
        finally:
            measures.writers_waiting -= 1
        measures.writers += 1
        try:
            async with self.acquire() as connection:
                yield connection
        finally:
            measures.writers -= 1
            self._writers.release()

    def pool_connections(self) -> tuple[int, int]:
        """Return how many connections of the pool are lent, and how many are idle."""
        idle = self._pool.get_idle_size()
        return self._pool.get_size() - idle, idle

    async def _acquire_usable(self) -> "asyncpg.pool.PoolConnectionProxy[asyncpg.Record]":
        """Acquire a usable connection; an unusable one makes the pool renew all its connections."""
        while True:
            self.measures.pool_waiting += 1
            try:
                connection = await self._pool.acquire(timeout=ACQUIRE_TIMEOUT_S)
            except TimeoutError as error:
                if error.args:  # the host did not answer, and the text names it
                    raise
                raise TimeoutError(NO_CONNECTION) from error
            finally:
                self.measures.pool_waiting -= 1
            try:
                if await cast("Session", connection).is_usable():
                    return connection
            except BaseException:
                terminate(connection)
                await self._pool.release(connection)
                raise
            terminate(connection)
            await self._pool.release(connection)
            await self._pool.expire_connections()

    @asynccontextmanager
    async def reading(self, *, ahead: bool = False) -> "AsyncIterator[Connection]":
        """Lend a connection in a read-only transaction, whose statements all read one snapshot.

        `ahead` is that of `acquire`.

        Raises:
            Unavailable: as `acquire`.
        """
        async with self.acquire(ahead=ahead) as connection:
            await connection.execute(BEGIN_READING)
            try:
                yield connection
            except (TimeoutError, asyncio.CancelledError):
                raise  # `acquire` drops the connection
            except BaseException:
                await roll_back(connection)
                raise
            await roll_back(connection)


@contextmanager
def noticing_loss(connection: "Connection") -> "Iterator[None]":
    """Raise ConnectionResetError in place of asyncpg's errors for a connection that has ended.

    If Postgres has sent its last error and the socket is still open, asyncpg raises InternalClientError:
    it expected no message. Such a connection is never usable again. An InterfaceError on an open
    connection is a programming error, and stays one.
    """
    try:
        yield
    except LOST_ERRORS as error:
        if not is_lost(connection, error):
            raise
        terminate(connection)
        raise ConnectionResetError(first_line(error)) from error


def is_lost(connection: "Connection", error: Exception) -> bool:
    """Whether one of LOST_ERRORS says that the connection has ended."""
    try:
        return isinstance(error, asyncpg.InternalClientError) or connection.is_closed()
    except asyncpg.InterfaceError:
        return True  # the pool has taken back the closed connection


def terminate(connection: "Connection") -> None:
    """Close the connection at once, so that Postgres rolls back; a pool replaces it."""
    with suppress(asyncpg.InterfaceError):  # the pool has taken it back
        connection.terminate()


class unavailable:  # noqa: N801 - used as a function: `with unavailable():`
    """Raises Unavailable in place of the errors of an unreachable database, with the error as its cause."""

    def __enter__(self) -> None:
        """Do nothing."""

    def __exit__(self, _: object, error: BaseException | None, __: object) -> None:
        refusal = None if error is None else as_refusal(error)
        if refusal is not None and refusal is not error:
            raise refusal from error


def as_refusal(error: BaseException) -> Unavailable | None:
    """Return the refusal that stands for an error of an unreachable database; None for any other error."""
    if isinstance(error, Unavailable):
        return error
    kind = Unavailable
    if isinstance(error, asyncpg.LockNotAvailableError):
        kind, detail = Busy, HELD_TOO_LONG
    elif isinstance(error, STATEMENTS_LOST):
        detail = USE_A_POOLER_THAT_KEEPS_THEM
    elif isinstance(error, (UrlError, EncodingError)):
        detail = f"the database cannot be used: {error}"
    elif isinstance(error, (*CONNECTION_ERRORS, *RETRY_ERRORS, *REFUSAL_ERRORS)):
        detail = "the database is not available; nothing was written"
    else:
        return None
    refusal = kind(detail)
    refusal.__cause__ = error
    return refusal


async def roll_back(connection: "Connection", *, then: str = "") -> None:
    """Roll back the transaction; drop the connection if that fails. `then` is added to the message."""
    try:
        with noticing_loss(connection):
            await connection.execute(f"ROLLBACK{then}", timeout=ROLLBACK_TIMEOUT_S)
    except (*CONNECTION_ERRORS, asyncpg.PostgresError):
        terminate(connection)


async def _nothing_to_reset(_: "Connection") -> None:
    """Do nothing: session state is set inside transactions only, and a reset costs a round trip."""
