"""The worker's sessions: opened and closed within time limits, with a name that an operator can see."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Final

import asyncpg

from outbox_worker.postgres.connection import ERRORS, Connection, Connector, EncodingError
from outbox_worker.postgres.url import UrlError

__all__ = ["ERRORS", "Connection"]

DISCONNECT_TIMEOUT_S = 1
CHECK_TIMEOUT_S = 5
LEADER = "leader"
"""The role of the session that holds or polls the leader's lock, of which each worker has one."""
# Set in each session, beside the settings of `connection`.
SETTINGS = {
    "idle_in_transaction_session_timeout": "0",  # a transaction may wait for Kafka
    "synchronous_commit": "on",  # a checkpoint is durable when it is written
}
# Errors that show that a prepared statement belongs to another session.
MIXED_UP: Final = (
    asyncpg.DuplicatePreparedStatementError,
    asyncpg.InvalidSQLStatementNameError,
    asyncpg.ProtocolViolationError,
)


# NULL in an older schema, which has no such table.
HAS_PRIVILEGE = """
SELECT has_table_privilege(to_regclass($1), $2)
"""


class UnusableUrlError(Exception):
    """The URL cannot be used, and a retry would not help. The text does not contain the URL."""


BACKEND = """
SELECT pg_backend_pid()
"""


def application_name(role: str) -> str:
    """Return the name that a session with this role has in pg_stat_activity."""
    return f"outbox_worker {role}"


async def connect(url: str, role: str, *, timeout_s: float | None, **settings: str) -> Connection:
    """Open a session on a primary; `timeout_s` is the limit of each statement, None: no limit."""
    name = application_name(role)
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
    """Open a session, and close it at the end of the context."""
    connection = await connect(url, role, timeout_s=timeout_s, **settings)
    try:
        yield connection
    finally:
        await disconnect(connection)


async def configure(connection: asyncpg.Connection, **settings: str) -> None:
    """Change settings by statements: PgBouncer refuses or forgets most of them in the startup message."""
    await connection.execute("".join(f"SET {name} = '{settings[name]}';" for name in settings))


async def pooled(connection: asyncpg.Connection, url: str) -> bool:
    """Whether the URL leads to a transaction pooler, which lends an idle session's backend to others."""
    other = await connect(url, "pooler check", timeout_s=CHECK_TIMEOUT_S)
    try:
        backend = await connection.fetchval(BACKEND)
        async with other.transaction():
            lent = await other.fetchval(BACKEND) == backend
            return bool(lent or await connection.fetchval(BACKEND) != backend)
    except MIXED_UP:
        return True
    finally:
        await disconnect(other)


async def has_privilege(
    connection: asyncpg.Connection, table: str, privilege: str, timeout_s: float | None = None
) -> bool | None:
    """Whether the role has a privilege on a table; None: the schema is older than the table.

    A statement that names such a table would fail, and the server would log an error each time.
    """
    held: bool | None = await connection.fetchval(
        HAS_PRIVILEGE, table, privilege, timeout=timeout_s
    )
    return held


def is_read_only(connection: asyncpg.Connection) -> bool:
    """Whether transactions are read-only by default, as the server has reported last."""
    return getattr(connection.get_settings(), "default_transaction_read_only", "off") == "on"


async def disconnect(connection: asyncpg.Connection) -> None:
    """Close a session; after DISCONNECT_TIMEOUT_S, terminate its connection."""
    try:
        await connection.close(timeout=DISCONNECT_TIMEOUT_S)
    except ERRORS:
        connection.terminate()
