"""Connections to Postgres, and which of its errors mean that it is unreachable."""

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from typing import TYPE_CHECKING, Final, NamedTuple, Self, cast

import asyncpg

from service.core.errors import Unavailable
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
CLOSE_TIMEOUT_S: Final = 2.0
"""For idle connections to end; those that a network forgot do not."""
ACQUIRE_TIMEOUT_S: Final = 5.0
WRITERS_PERCENT: Final = 80
"""Of the pool: the most that transactions may have which wait for locks. The rest is left to reads."""
TURNS: Final = 10
"""Of two sessions, to find out whether a pooler keeps their prepared statements."""
ROLLBACK_TIMEOUT_S: Final = 1.0
"""A caller waits for it, and to drop the connection does as well."""

CONNECTION_ERRORS: Final = (
    OSError,
    TimeoutError,
    asyncpg.PostgresConnectionError,  # class 08
    asyncpg.OperatorInterventionError,  # class 57: shut down, crashed, starting up, canceled
    asyncpg.IdleInTransactionSessionTimeoutError,  # 25P03: this process stood still meanwhile
    asyncpg.TransactionTimeoutError,  # 25P04
    asyncpg.StatementCompletionUnknownError,  # 40003
)
"""The connection is gone, or was never made; whether a COMMIT on it took effect is unknown."""

RETRY_ERRORS: Final = (
    asyncpg.TransactionRollbackError,  # class 40: serialization failure, deadlock
    asyncpg.SnapshotTooOldError,
    asyncpg.InvalidCachedStatementError,  # the schema was changed meanwhile
)
"""Postgres rolled the transaction back, and the same transaction may succeed at once."""

REFUSAL_ERRORS: Final = (
    asyncpg.InsufficientResourcesError,  # class 53: disk full, out of memory, too many connections
    asyncpg.ProgramLimitExceededError,  # 54000: out of transaction ids
    asyncpg.ObjectNotInPrerequisiteStateError,  # class 55: a lock not available, recovery going on
    asyncpg.PostgresSystemError,  # class 58: an input/output error
    asyncpg.ReadOnlySQLTransactionError,  # a standby, or a full disk's emergency brake
    asyncpg.InvalidAuthorizationSpecificationError,  # class 28
    asyncpg.InsufficientPrivilegeError,
    asyncpg.InvalidCatalogNameError,
    asyncpg.InvalidSchemaNameError,
    asyncpg.UndefinedTableError,  # not migrated yet
    asyncpg.UndefinedFunctionError,
)
"""Postgres answers, but cannot do it now; nothing was written."""

LOST_ERRORS: Final = (asyncpg.InternalClientError, asyncpg.InterfaceError)
"""What asyncpg raises, among other things, on a connection that has ended: see `is_lost`."""

STATEMENTS_LOST: Final = (
    asyncpg.DuplicatePreparedStatementError,
    asyncpg.InvalidSQLStatementNameError,
    asyncpg.ProtocolViolationError,
)
"""A prepared statement is not there, or is another session's: a pooler lent out another connection."""

USE_A_POOLER_THAT_KEEPS_THEM: Final = (
    "the pooler before the database does not keep prepared statements; nothing was written: use PgBouncer "
    "1.21 or later with max_prepared_statements, pool_mode=session, or the server's own address"
)
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
"""For statements whose plan may be made while the tables are empty: it would be a sequential scan, or an
index read from end to end and materialized, and stay so. (What is switched off and needed all the same
counts as so dear, up to Postgres 17, that it would be compiled.)

Local to a transaction, so that it holds behind a transaction pooler too.
"""

BEGIN_READING: Final = f"BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY; {INDEXES_ONLY}"


# The timeline cannot be asked for in recovery.
SERVER: Final = """
SELECT pg_is_in_recovery(), s.system_identifier,
    CASE WHEN NOT pg_is_in_recovery() THEN left(pg_walfile_name(pg_current_wal_lsn()), 8) END
FROM pg_control_system() AS s
"""
IN_RECOVERY: Final = "SELECT pg_is_in_recovery()"


class Server(NamedTuple):
    """Which cluster a connection reached, on which timeline, and whether as a standby.

    The system identifier and the timeline are None where the role may not ask for them.
    """

    in_recovery: bool
    system_identifier: int | None = None
    timeline: str | None = None


class Session(postgres_connection.Connection):
    """A connection that remembers which server it reached."""

    server: Server | None = None


async def _identify(session: "Connection") -> None:
    """Ask the server which one it is, and remember the answer."""
    try:
        row = await session.fetchrow(SERVER)
    except asyncpg.PostgresError:  # not permitted, or not implemented by a managed Postgres
        row = await session.fetchrow(IN_RECOVERY)
    cast("Session", session).server = None if row is None else Server(*row)


class Database:
    """A pool that connects when it is first needed, so that the service can start before Postgres."""

    def __init__(self, dsn: str, *, pool_size: int) -> None:
        self._connector = Connector(
            dsn,
            APPLICATION,
            COMMAND_TIMEOUT_S,
            Session,
            idle_in_transaction_session_timeout=f"{COMMAND_TIMEOUT_S:g}s",
        )
        self._statements_kept = False
        self._writers = asyncio.Semaphore(max(1, pool_size * WRITERS_PERCENT // 100))
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
        """Open a connection of one's own, outside the pool.

        Raises:
            CONNECTION_ERRORS, REFUSAL_ERRORS: as the name says.
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
        """Return the connection if it can still be used, else a new one; for those who keep one."""
        if connection is not None:
            if await connection.is_usable():
                return connection
            terminate(connection)
            await self._pool.expire_connections()
        return await self.connect()

    async def try_to_connect(self) -> None:
        """Find out what no waiting mends; whether anybody answers is another matter.

        Raises:
            UrlError, TlsError, EncodingError: as the name says.
        """
        try:
            connection = await self.connect()
        except (UrlError, TlsError, EncodingError):
            raise
        except (*CONNECTION_ERRORS, asyncpg.PostgresError, asyncpg.InterfaceError):
            return
        connection.terminate()

    async def keeps_statements(self) -> bool:
        """Return whether a session's prepared statements stay its own; asks until they once were.

        Two sessions take turns, so that a transaction pooler has to lend each another connection.
        It lends the one that was idle for the shortest time, which may have been used by a third
        session in between: hence several turns.
        """
        if self._statements_kept:
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
            raise ConnectionResetError(str(error)) from error  # one of them ended meanwhile
        finally:
            for session in sessions:
                session.terminate()
        self._statements_kept = True
        return True

    @asynccontextmanager
    async def acquire(self) -> "AsyncIterator[Connection]":
        """Lend a connection of the pool.

        Raises:
            Unavailable: the database is unreachable, now or while the connection is in use.
        """
        with unavailable():
            connection = await self._acquire_usable()
            try:
                with noticing_loss(connection):
                    yield connection
            except (TimeoutError, asyncio.CancelledError, asyncpg.ReadOnlySQLTransactionError):
                terminate(connection)  # to end what is going on there politely might wait again
                raise
            except STATEMENTS_LOST:
                self._statements_kept = False
                raise
            finally:
                await self._pool.release(connection)

    @asynccontextmanager
    async def acquire_to_wait(self) -> "AsyncIterator[Connection]":
        """Lend a connection of the pool to a transaction that may wait for locks.

        However many of them wait, there are connections for those that only read.

        Raises:
            Unavailable: as `acquire`; or the transactions before this one wait for too long.
        """
        try:
            async with asyncio.timeout(ACQUIRE_TIMEOUT_S):
                await self._writers.acquire()
        except TimeoutError as error:
            detail = "too many writes wait for locks; nothing was written"
            raise Unavailable(detail) from error
        try:
            async with self.acquire() as connection:
                yield connection
        finally:
            self._writers.release()

    async def _acquire_usable(self) -> "asyncpg.pool.PoolConnectionProxy[asyncpg.Record]":
        """Take a connection that answers; one that does not makes the pool renew all of them."""
        while True:
            connection = await self._pool.acquire(timeout=ACQUIRE_TIMEOUT_S)
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
    async def reading(self) -> "AsyncIterator[Connection]":
        """Lend a connection in a transaction that only reads: all its statements see one moment.

        Raises:
            Unavailable: the database is away, here or while the connection is in use.
        """
        async with self.acquire() as connection:
            await connection.execute(BEGIN_READING)
            try:
                yield connection
            except (TimeoutError, asyncio.CancelledError):
                raise  # the connection is dropped
            except BaseException:
                await roll_back(connection)
                raise
            await roll_back(connection)


@contextmanager
def noticing_loss(connection: "Connection") -> "Iterator[None]":
    """Turn asyncpg's complaints about a connection that ended between two calls into ConnectionResetError.

    Between the server's farewell and the end of the line it says InternalClientError, since it
    expected no message then; whatever made it say so, such a connection is of no more use. What else
    InterfaceError says is a mistake of ours.
    """
    try:
        yield
    except LOST_ERRORS as error:
        if not is_lost(connection, error):
            raise
        terminate(connection)
        raise ConnectionResetError(str(error)) from error


def is_lost(connection: "Connection", error: Exception) -> bool:
    """Whether one of LOST_ERRORS says that the connection has ended."""
    try:
        return isinstance(error, asyncpg.InternalClientError) or connection.is_closed()
    except asyncpg.InterfaceError:
        return True  # the pool took it back when it closed


def terminate(connection: "Connection") -> None:
    """Drop the connection, and with it what is open on it; a pool replaces it."""
    with suppress(asyncpg.InterfaceError):  # gone already
        connection.terminate()


class unavailable:  # noqa: N801 - reads as what it does: `with unavailable():`
    """Turns the errors of an unreachable database into Unavailable; the cause stays attached."""

    def __enter__(self) -> None:
        """Nothing to set up."""

    def __exit__(self, _: object, error: BaseException | None, __: object) -> None:
        if isinstance(error, asyncpg.LockNotAvailableError):
            detail = "somebody else is writing to it for too long; nothing was written"
        elif isinstance(error, STATEMENTS_LOST):
            detail = USE_A_POOLER_THAT_KEEPS_THEM
        elif isinstance(error, (UrlError, EncodingError)):
            detail = f"the database cannot be used: {error}"
        elif isinstance(error, (*CONNECTION_ERRORS, *RETRY_ERRORS, *REFUSAL_ERRORS)):
            detail = "the database is not available; nothing was written"
        else:
            return
        raise Unavailable(detail) from error


async def roll_back(connection: "Connection", *, then: str = "") -> None:
    """End the transaction without effect, with its connection if need be.

    `then` is appended to the ROLLBACK message.
    """
    try:
        with noticing_loss(connection):
            await connection.execute(f"ROLLBACK{then}", timeout=ROLLBACK_TIMEOUT_S)
    except (*CONNECTION_ERRORS, asyncpg.PostgresError):
        terminate(connection)


async def _nothing_to_reset(_: "Connection") -> None:
    """Do nothing: no session state is ever set outside a transaction, and resetting costs a round trip."""
