"""How far behind we are, for the metrics: looked at every few seconds over a session of its own."""

import asyncio
import contextlib
from collections.abc import Callable
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
    """Keeps the gauges up to date for as long as the worker leads."""

    def __init__(
        self, url: str, stop: asyncio.Event, metrics: Metrics, published: Callable[[], Cursor]
    ) -> None:
        self._url = url
        self._stop = stop
        self._metrics = metrics
        self._published = published

    async def run(self) -> None:
        """Look every few seconds; an error ends a session of this, never the worker's term."""
        while not self._stop.is_set():
            # What is wrong with the database, the relay's own sessions tell.
            with contextlib.suppress(*ERRORS):
                await self._look_on()
            await pause(self._stop, EVERY_S)

    async def _look_on(self) -> None:
        connection = await connect(self._url, "lag", timeout_s=LOOK_TIMEOUT_S, **PLANNER_SETTINGS)
        try:
            while not self._stop.is_set():
                await self.look(connection)
                await pause(self._stop, EVERY_S)
        finally:
            await disconnect(connection)

    async def look(self, connection: asyncpg.Connection) -> None:
        """Set the gauges."""
        behind = await due(connection, self._published())
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
