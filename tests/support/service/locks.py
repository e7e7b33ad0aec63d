"""Documents that another session has locked, and the sessions that wait for a lock."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import asyncpg

LOCK = "SELECT FROM documents WHERE id = ANY ($1) FOR UPDATE"
WAITERS = """
SELECT pid
FROM pg_stat_activity
WHERE wait_event_type = 'Lock' AND datname = current_database()
"""


@asynccontextmanager
async def locked(database: str, *documents: str) -> AsyncIterator[asyncpg.Connection]:
    """Hold the documents' locks in another session until it rolls back or the context ends."""
    session = await asyncpg.connect(database)
    try:
        await session.execute("BEGIN")
        await session.execute(LOCK, documents)
        yield session
    finally:
        await session.close()


async def waiting(connection: asyncpg.Connection, sessions: int = 1) -> bool:
    """Whether at least so many sessions wait for a lock."""
    return len(await waiters(connection)) >= sessions


async def waiters(connection: asyncpg.Connection) -> set[int]:
    """Return the process ids of the sessions that wait for a lock."""
    return {pid for (pid,) in await connection.fetch(WAITERS)}
