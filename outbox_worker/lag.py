"""How far behind we are, for the metrics: looked at every few seconds over a session of its own."""

import asyncio
import contextlib
from collections.abc import Awaitable, Callable
from typing import NamedTuple

import asyncpg

from outbox_worker.backoff import pause
from outbox_worker.metrics import Metrics
from outbox_worker.sessions import ERRORS, connect, disconnect
from outbox_worker.window import PLANNER_SETTINGS, Cursor

EVERY_S = 5
LOOK_TIMEOUT_S = 30

# Between windows, the oldest row that is due: $1 in-progress xids and $2 xmax of s0.
OLDEST = """
SELECT position, extract(EPOCH FROM clock_timestamp() - created_at)::float8 AS seconds
FROM (
    (SELECT position, created_at FROM outbox WHERE xid = ANY ($1::xid8[]) LIMIT 1)
    UNION ALL
    (SELECT position, created_at
    FROM outbox
    WHERE xid >= $2::xid8
    ORDER BY xid, position
    LIMIT 1)
) AS u
ORDER BY created_at
LIMIT 1
"""

# Within a window, the next row: $1 the position after which new rows come.
NEXT = """
SELECT position, extract(EPOCH FROM clock_timestamp() - created_at)::float8 AS seconds
FROM outbox
WHERE position > $1
ORDER BY position
LIMIT 1
"""

NEWEST = """
SELECT position
FROM outbox
ORDER BY position DESC
LIMIT 1
"""

# Rows of a transaction that is still open come late, however long ago they were written.
OLDEST_TRANSACTION = """
SELECT coalesce(max(extract(EPOCH FROM clock_timestamp() - xact_start)), 0)::float8
FROM pg_stat_activity
WHERE backend_xid IS NOT NULL AND datname = current_database()
"""


class Due(NamedTuple):
    """How many events are due, about, and how old the oldest of them is."""

    events: int
    seconds: float


class Lag:
    """Keeps the gauges up to date for as long as the worker holds the lock, Kafka or no Kafka."""

    def __init__(self, url: str, stop: asyncio.Event, metrics: Metrics) -> None:
        self._url = url
        self._stop = stop
        self._metrics = metrics
        self._published: Callable[[], Cursor] | None = None

    def follow(self, published: Callable[[], Cursor]) -> None:
        """Measure from this cursor: a term's, also after its end."""
        self._published = published

    def forget(self) -> None:
        """Show nothing: another process may lead, and knows better."""
        self._published = None
        for gauge in (
            self._metrics.lag_seconds,
            self._metrics.lag_events,
            self._metrics.oldest_transaction,
        ):
            gauge.set(0)

    async def run(self, checkpoint: Callable[[], Awaitable[Cursor]]) -> None:
        """Look every few seconds, from the checkpoint before the first term.

        An error ends a session of this, never the worker's term.
        """
        while not self._stop.is_set():
            # What is wrong with the database, the relay's own sessions tell.
            with contextlib.suppress(*ERRORS):
                await self._look_on(checkpoint)
            await pause(self._stop, EVERY_S)

    async def _look_on(self, checkpoint: Callable[[], Awaitable[Cursor]]) -> None:
        connection = await connect(self._url, "lag", timeout_s=LOOK_TIMEOUT_S, **PLANNER_SETTINGS)
        try:
            while not self._stop.is_set():
                cursor = self._published() if self._published else await checkpoint()
                await self._look(connection, cursor)
                await pause(self._stop, EVERY_S)
        finally:
            await disconnect(connection)

    async def _look(self, connection: asyncpg.Connection, cursor: Cursor) -> None:
        behind = await due(connection, cursor)
        self._metrics.lag_seconds.set(behind.seconds)
        self._metrics.lag_events.set(behind.events)
        self._metrics.oldest_transaction.set(await connection.fetchval(OLDEST_TRANSACTION))


async def due(connection: asyncpg.Connection, cursor: Cursor) -> Due:
    """Return what is committed and not published, over a session with the window's settings."""
    if cursor.s1 is None:
        row = await connection.fetchrow(OLDEST, cursor.s0.in_progress, cursor.s0.xmax)
    else:
        row = await connection.fetchrow(NEXT, cursor.after[1])
    if row is None:
        return Due(0, 0.0)
    newest = await connection.fetchval(NEWEST)
    return Due(newest - row["position"] + 1, row["seconds"])
