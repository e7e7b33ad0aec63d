"""Connections to Postgres, and which of its errors mean that it is away."""

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from typing import TYPE_CHECKING, Final, NamedTuple, Self, cast

import asyncpg

from service.core.errors import Unavailable

if TYPE_CHECKING:
    Connection = (
        asyncpg.Connection[asyncpg.Record] | asyncpg.pool.PoolConnectionProxy[asyncpg.Record]
    )
    Pool = asyncpg.Pool[asyncpg.Record]

CONNECT_TIMEOUT_S: Final = 2.0
COMMAND_TIMEOUT_S: Final = 10.0
ACQUIRE_TIMEOUT_S: Final = 5.0
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


class Session(asyncpg.Connection):
    """A connection that remembers which server it reached."""

    server: Server | None = None


async def _identify(session: "Connection") -> None:
    """Ask the server which one it is, and remember the answer."""
    try:
        row = await session.fetchrow(SERVER)
    except asyncpg.PostgresError:  # not permitted, or not implemented by a managed Postgres
        row = await session.fetchrow(IN_RECOVERY)
    cast("Session", session).server = None if row is None else Server(*row)


def server_of(connection: "Connection") -> Server | None:
    """Return which server the connection reached; None if it was not asked."""
    server: Server | None = getattr(connection, "server", None)  # a pool's proxy has it, too
    return server


class Database:
    """A pool that connects when it is first needed, so that the service can start before Postgres."""

    def __init__(self, dsn: str, *, pool_size: int) -> None:
        self.dsn = dsn
        self._pool: Pool = asyncpg.create_pool(
            dsn,
            min_size=0,
            max_size=pool_size,
            timeout=CONNECT_TIMEOUT_S,
            command_timeout=COMMAND_TIMEOUT_S,
            reset=_nothing_to_reset,
            init=_identify,
            connection_class=Session,
            server_settings={"application_name": "document-links"},
        )

    async def __aenter__(self) -> Self:
        await self._pool
        return self

    async def __aexit__(self, *_: object) -> None:
        try:
            await asyncio.wait_for(self._pool.close(), COMMAND_TIMEOUT_S)
        except TimeoutError:
            self._pool.terminate()

    async def connect(self) -> Session:
        """Open a connection of one's own, outside the pool.

        Raises:
            CONNECTION_ERRORS, REFUSAL_ERRORS: as the name says.
        """
        connection = await asyncpg.connect(
            self.dsn,
            timeout=CONNECT_TIMEOUT_S,
            command_timeout=COMMAND_TIMEOUT_S,
            connection_class=Session,
            server_settings={"application_name": "document-links"},
        )
        try:
            await asyncio.wait_for(_identify(connection), CONNECT_TIMEOUT_S)
        except BaseException:
            connection.terminate()
            raise
        return connection

    async def can_read_url(self) -> bool:
        """Whether asyncpg makes sense of the URL; whether anybody answers there is another matter."""
        try:
            connection = await self.connect()
        except ValueError:  # asyncpg's ClientConfigurationError is one too
            return False
        except (*CONNECTION_ERRORS, asyncpg.PostgresError, asyncpg.InterfaceError):
            return True
        connection.terminate()
        return True

    @asynccontextmanager
    async def acquire(self) -> "AsyncIterator[Connection]":
        """Lend a connection of the pool.

        Raises:
            Unavailable: the database is away, here or while the connection is in use.
        """
        with unavailable():
            async with self._pool.acquire(timeout=ACQUIRE_TIMEOUT_S) as connection:
                try:
                    with noticing_loss(connection):
                        yield connection
                except (TimeoutError, asyncio.CancelledError):
                    terminate(connection)  # to end what is going on there politely might wait again
                    raise

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
    except asyncpg.InternalClientError as error:
        terminate(connection)
        raise ConnectionResetError(str(error)) from error
    except asyncpg.InterfaceError as error:
        if not _is_closed(connection):
            raise
        raise ConnectionResetError(str(error)) from error


def _is_closed(connection: "Connection") -> bool:
    try:
        return connection.is_closed()
    except asyncpg.InterfaceError:
        return True  # the pool took it back when it closed


def is_in_transaction(connection: "Connection") -> bool:
    """Whether Postgres said so last, and the connection is still there."""
    return not _is_closed(connection) and connection.is_in_transaction()


def terminate(connection: "Connection") -> None:
    """Drop the connection, and with it what is open on it; a pool replaces it."""
    with suppress(asyncpg.InterfaceError):  # gone already
        connection.terminate()


class unavailable:  # noqa: N801 - reads as what it does: `with unavailable():`
    """Turns the errors of a database that is away into Unavailable; the cause stays attached."""

    def __enter__(self) -> None:
        """Nothing to set up."""

    def __exit__(self, _: object, error: BaseException | None, __: object) -> None:
        if isinstance(error, asyncpg.LockNotAvailableError):
            raise Unavailable(
                "somebody else is writing to it for too long; nothing was written"
            ) from error
        if isinstance(error, (*CONNECTION_ERRORS, *RETRY_ERRORS, *REFUSAL_ERRORS)):
            raise Unavailable("the database is not available; nothing was written") from error


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
