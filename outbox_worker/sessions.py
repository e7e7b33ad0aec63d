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


async def connect(url: str, role: str, *, timeout_s: float, **settings: str) -> asyncpg.Connection:
    """Return a session of its own, in READ COMMITTED; each statement has timeout_s."""
    return await asyncpg.connect(
        url,
        timeout=CONNECT_TIMEOUT_S,
        command_timeout=timeout_s,
        server_settings={
            "application_name": f"outbox_worker {role}",
            "default_transaction_isolation": "read committed",
            **settings,
        },
    )


async def disconnect(connection: asyncpg.Connection) -> None:
    """End a session, politely if that is quick."""
    try:
        await connection.close(timeout=DISCONNECT_TIMEOUT_S)
    except ERRORS:
        connection.terminate()
