"""Connections to Postgres, and which of its errors mean that it is away."""

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from typing import TYPE_CHECKING, Final, Self

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

CONNECTION_ERRORS: Final = (
    OSError,
    TimeoutError,
    asyncpg.PostgresConnectionError,
    asyncpg.OperatorInterventionError,  # shut down, crashed, starting up, terminated
)
"""The connection is gone, or was never made; whether a COMMIT on it took effect is unknown."""

REFUSAL_ERRORS: Final = (
    asyncpg.InsufficientResourcesError,  # disk full, too many connections
    asyncpg.ReadOnlySQLTransactionError,  # a standby, or a full disk's emergency brake
    asyncpg.LockNotAvailableError,
    asyncpg.InvalidAuthorizationSpecificationError,
    asyncpg.InvalidCatalogNameError,
    asyncpg.UndefinedTableError,  # not migrated yet
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

    async def connect(self) -> "asyncpg.Connection[asyncpg.Record]":
        """Open a connection of one's own, outside the pool.

        Raises:
            CONNECTION_ERRORS, REFUSAL_ERRORS: as the name says.
        """
        return await asyncpg.connect(
            self.dsn,
            timeout=CONNECT_TIMEOUT_S,
            command_timeout=COMMAND_TIMEOUT_S,
            server_settings={"application_name": "document-links"},
        )

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
                with noticing_loss(connection):
                    yield connection

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
            finally:
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
        if isinstance(error, (*CONNECTION_ERRORS, *REFUSAL_ERRORS)):
            raise Unavailable("the database is not available; nothing was written") from error


async def roll_back(connection: "Connection") -> None:
    """End the transaction without effect, with its connection if need be."""
    try:
        with noticing_loss(connection):
            await connection.execute("ROLLBACK")
    except (*CONNECTION_ERRORS, asyncpg.PostgresError):
        terminate(connection)


async def _nothing_to_reset(_: "Connection") -> None:
    """Do nothing: no session state is ever set outside a transaction, and resetting costs a round trip."""
