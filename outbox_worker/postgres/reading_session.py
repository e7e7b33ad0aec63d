"""A session that only reads, and is replaced when it is silent.

A balancer or a NAT may forget a connection between two statements: the statement is then answered
by nobody. The time limit of a read cannot be short, as a slow Postgres would never get one done. So
a read without an answer is sent once more, over a new session, and the first answer counts.
"""

import asyncio
from collections.abc import Awaitable, Callable

import asyncpg

from outbox_worker.postgres.sessions import ERRORS, Connection, disconnect
from outbox_worker.tasks import retrieve_error

# A read takes milliseconds; the first event after a quiet spell is to be published within 3 s.
SILENT_S = 1


class ReadingSession:
    """Sends reads; one at a time, as Postgres does them."""

    def __init__(self, connection: Connection, reopen: Callable[[], Awaitable[Connection]]) -> None:
        self._connection = connection
        self._reopen = reopen

    async def close(self) -> None:
        """End the session."""
        await disconnect(self._connection)

    async def fetch(
        self, query: str, *arguments: object, timeout_s: float | None = None
    ) -> list[asyncpg.Record]:
        """Return the rows of a read, which may be done twice."""

        async def read(connection: Connection) -> list[asyncpg.Record]:
            rows: list[asyncpg.Record] = await connection.fetch(
                query, *arguments, timeout=timeout_s
            )
            return rows

        first = asyncio.create_task(read(self._connection))
        first.add_done_callback(retrieve_error)
        try:
            await asyncio.wait({first}, timeout=SILENT_S)
            return await first if first.done() else await self._repeat(first, read)
        finally:
            first.cancel()

    async def _repeat(
        self,
        first: asyncio.Task[list[asyncpg.Record]],
        read: Callable[[Connection], Awaitable[list[asyncpg.Record]]],
    ) -> list[asyncpg.Record]:
        """Do a read over a second session as well; keep the session that answers first."""
        try:
            other = await self._reopen()
        except ERRORS:
            return await first
        second = asyncio.ensure_future(read(other))
        second.add_done_callback(retrieve_error)
        try:
            await asyncio.wait({first, second}, return_when=asyncio.FIRST_COMPLETED)
            if second.done() and not first.done():
                self._connection, other = other, self._connection
                return second.result()
            return first.result()
        finally:
            second.cancel()
            other.terminate()
            await asyncio.wait({second})
