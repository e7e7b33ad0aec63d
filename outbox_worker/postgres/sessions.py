"""Sessions with Postgres: opened within a bound, named for the operator, ended for sure."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Final

import asyncpg

from outbox_worker.postgres.connection import ERRORS, Connection, Connector, EncodingError
from outbox_worker.postgres.url import UrlError

__all__ = ["ERRORS", "Connection"]

DISCONNECT_TIMEOUT_S = 1
LOOK_TIMEOUT_S = 5
# Of each session, beside those of postgres_connection.py.
SETTINGS = {
    "idle_in_transaction_session_timeout": "0",  # a transaction may wait for Kafka
    "synchronous_commit": "on",  # a checkpoint is durable when it is written
}
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


async def connect(url: str, role: str, *, timeout_s: float | None, **settings: str) -> Connection:
    """Return a session of its own, on a primary; each statement has timeout_s, None: no end."""
    name = f"outbox_worker {role}"
    try:
        connector = Connector(url, name, timeout_s, Connection, **{**SETTINGS, **settings})
        return await connector.connect()
    except UrlError as error:
        message = f"the database's URL cannot be used: {error}"
        raise UnusableUrlError(message) from None
    except EncodingError as error:
        raise UnusableUrlError(str(error)) from None


@asynccontextmanager
async def session(
    url: str, role: str, *, timeout_s: float | None, **settings: str
) -> AsyncIterator[Connection]:
    """Yield a session as `connect` opens it, and end it afterwards."""
    connection = await connect(url, role, timeout_s=timeout_s, **settings)
    try:
        yield connection
    finally:
        await disconnect(connection)


async def configure(connection: asyncpg.Connection, **settings: str) -> None:
    """Set by statements: PgBouncer refuses, or forgets, what a client says as it connects."""
    await connection.execute("".join(f"SET {name} = '{settings[name]}';" for name in settings))


async def pooled(connection: asyncpg.Connection, url: str) -> bool:
    """Whether a transaction pooler is in the way: it lends an idle session's backend to others."""
    other = await connect(url, "look", timeout_s=LOOK_TIMEOUT_S)
    try:
        ours = await connection.fetchval(BACKEND)
        async with other.transaction():
            lent = await other.fetchval(BACKEND) == ours
            return bool(lent or await connection.fetchval(BACKEND) != ours)
    except MIXED_UP:
        return True
    finally:
        await disconnect(other)


def is_read_only(connection: asyncpg.Connection) -> bool:
    """Whether the server said with its last answer that its transactions are read-only by default."""
    return getattr(connection.get_settings(), "default_transaction_read_only", "off") == "on"


async def disconnect(connection: asyncpg.Connection) -> None:
    """End a session, politely if that is quick."""
    try:
        await connection.close(timeout=DISCONNECT_TIMEOUT_S)
    except ERRORS:
        connection.terminate()
