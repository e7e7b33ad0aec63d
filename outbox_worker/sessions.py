"""Sessions with Postgres: opened within a bound, named for the operator, ended for sure."""

from typing import Final

import asyncpg

CONNECT_TIMEOUT_S = 10
DISCONNECT_TIMEOUT_S = 1
# What a session can fail with. (asyncpg calls it a client error of its own when a connection
# breaks while a cancelled statement is still being cleaned up.)
ERRORS: Final = (
    OSError,
    TimeoutError,
    asyncpg.PostgresError,
    asyncpg.InterfaceError,
    asyncpg.InternalClientError,
)
# How it shows that a prepared statement is another session's.
MIXED_UP: Final = (
    asyncpg.DuplicatePreparedStatementError,
    asyncpg.InvalidSQLStatementNameError,
    asyncpg.ProtocolViolationError,
)


class UnusableUrlError(Exception):
    """No session can be had with this URL, however often it is tried; the text is without it."""


BACKEND = """
SELECT pg_backend_pid()
"""


async def connect(
    url: str, role: str, *, timeout_s: float | None, **settings: str
) -> asyncpg.Connection:
    """Return a session of its own, in READ COMMITTED; each statement has timeout_s, None: no end."""
    connection = await _open(url, role, timeout_s)
    try:
        await configure(connection, default_transaction_isolation="read committed", **settings)
    except BaseException:
        connection.terminate()
        raise
    return connection


async def _open(url: str, role: str, timeout_s: float | None) -> asyncpg.Connection:
    try:
        return await asyncpg.connect(
            url,
            timeout=CONNECT_TIMEOUT_S,
            command_timeout=timeout_s,
            server_settings={"application_name": f"outbox_worker {role}"},
        )
    except OSError:  # a certificate that is refused is a ValueError too
        raise
    except asyncpg.ClientConfigurationError as error:
        message = f"the database's URL cannot be used: {str(error).splitlines()[0]}"
        raise UnusableUrlError(message) from None
    except (ValueError, IndexError):  # with a piece of the URL in their words
        message = "the database's URL cannot be used: look at its hosts and ports"
        raise UnusableUrlError(message) from None


async def configure(connection: asyncpg.Connection, **settings: str) -> None:
    """Set by statements: PgBouncer refuses, or forgets, what a client says as it connects."""
    await connection.execute("".join(f"SET {name} = '{settings[name]}';" for name in settings))


async def pooled(connection: asyncpg.Connection, url: str) -> bool:
    """Whether a transaction pooler is in the way: it lends an idle session's backend to others."""
    other = await connect(url, "look", timeout_s=CONNECT_TIMEOUT_S)
    try:
        ours = await connection.fetchval(BACKEND)
        async with other.transaction():
            lent = await other.fetchval(BACKEND) == ours
            return bool(lent or await connection.fetchval(BACKEND) != ours)
    except MIXED_UP:
        return True
    finally:
        await disconnect(other)


async def disconnect(connection: asyncpg.Connection) -> None:
    """End a session, politely if that is quick."""
    try:
        await connection.close(timeout=DISCONNECT_TIMEOUT_S)
    except ERRORS:
        connection.terminate()
