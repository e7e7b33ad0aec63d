"""A session that only reads, and is replaced if it does not answer.

A balancer or a NAT may forget a connection between two statements, and the next statement gets no
answer. The time limit of a read cannot be short, because a slow Postgres would never finish one. So a
read without an answer is sent again over a new session, and the first answer counts.
"""

import asyncio
from collections.abc import Awaitable, Callable

import asyncpg

from outbox_worker.postgres.sessions import ERRORS, Connection, disconnect
from outbox_worker.tasks import retrieve_error

SILENT_S = 1
"""The time after which a read is sent again. A read takes milliseconds, and the first event after a time
without events must be published within 3 s."""


class ReadingSession:
    """Sends one read at a time."""

    def __init__(self, connection: Connection, reopen: Callable[[], Awaitable[Connection]]) -> None:
        self._connection = connection
        self._reopen = reopen

    async def close(self) -> None:
        """Close the session."""
        await disconnect(self._connection)

    async def fetch(
        self, query: str, *arguments: object, timeout_s: float | None = None
    ) -> list[asyncpg.Record]:
        """Return the rows of a read, which Postgres may execute twice."""

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
        """Send the read over a second session too, and keep the session that answers first."""
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
