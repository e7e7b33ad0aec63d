"""How far behind we are, for the metrics: looked at every few seconds over a session of its own."""

import asyncio
import contextlib
import time
from collections.abc import Awaitable, Callable
from typing import NamedTuple

import asyncpg

from outbox_worker.postgres.cursor import Cursor, Snapshot
from outbox_worker.postgres.sessions import ERRORS, Connection, session
from outbox_worker.postgres.window import PLANNER_SETTINGS
from outbox_worker.relay.metrics import Backlog, Metrics
from outbox_worker.tasks import pause

EVERY_S = 5
BEGIN_EVERY_S = 1
# A session that is forgotten on the way in the middle of a look is replaced within 10 s.
LOOK_TIMEOUT_S = 5
# For how long the gauges show the last look: the next one may be late.
KNOWN_FOR_S = 2 * EVERY_S

# The late rows that are due. $1 in-progress xids of s0, $2 the position after which
# late rows come. `position + 0` keeps the planner off the index on position.
LATE = """
SELECT count(*) AS events,
    coalesce(max(extract(EPOCH FROM clock_timestamp() - created_at)), 0)::float8 AS seconds
FROM outbox
WHERE xid = ANY ($1::xid8[]) AND position + 0 > $2
"""

# The next new row of the window, and the first one beyond it. $1 the position after
# which new rows come, $2 xmax(s1).
NEW = """
SELECT min(position) AS position,
    coalesce(max(extract(EPOCH FROM clock_timestamp() - created_at)), 0)::float8 AS seconds
FROM (
    (SELECT position, created_at FROM outbox WHERE position > $1 ORDER BY position LIMIT 1)
    UNION ALL
    (SELECT position, created_at
    FROM outbox
    WHERE xid >= $2::xid8
    ORDER BY xid, position
    LIMIT 1)
) AS u
"""

# All late rows are due, and no new ones but those beyond the last window.
BETWEEN_WINDOWS = (0, 2**63 - 1)

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


Read = Callable[[asyncpg.Connection], Awaitable[Cursor]]


class Lag:
    """Keeps the gauges up to date while the worker has led last, with Kafka or without.

    Its session outlives the worker's terms: a term ends at once where Kafka refuses connections.
    The gauges are absent if Postgres does not answer, and in a process that does not lead.
    """

    def __init__(
        self,
        url: str,
        stop: asyncio.Event,
        metrics: Metrics,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._url = url
        self._stop = stop
        self._clock = clock
        self._checkpoint: Read | None = None
        self._published: Callable[[], Cursor] | None = None
        self._backlog: Backlog | None = None
        self._looked_at = 0.0
        metrics.backlog.known = self.known

    def begin(self, checkpoint: Read) -> None:
        """Measure, from the checkpoint before the first term: the worker has the lock."""
        self._checkpoint = checkpoint

    def follow(self, published: Callable[[], Cursor]) -> None:
        """Measure from this cursor: a term's, also after its end."""
        self._published = published

    def forget(self) -> None:
        """Know nothing: another process may lead, and knows better."""
        self._checkpoint = self._published = self._backlog = None

    def known(self) -> Backlog | None:
        """Return what the last look found; None if it is too long ago, or was forgotten."""
        recent = self._clock() - self._looked_at <= KNOWN_FOR_S
        return self._backlog if recent else None

    async def run(self) -> None:
        """Look every few seconds, until told to stop; an error ends a session, nothing else."""
        while not self._stop.is_set():
            # Database errors are reported by the relay's other sessions.
            with contextlib.suppress(*ERRORS):
                if self._checkpoint is not None:
                    await self._look_on()
            await pause(self._stop, BEGIN_EVERY_S)

    async def _look_on(self) -> None:
        async with session(
            self._url, "lag", timeout_s=LOOK_TIMEOUT_S, **PLANNER_SETTINGS
        ) as connection:
            while await self._goes_on(connection) and self._checkpoint is not None:
                cursor = self._published and self._published()
                await self._look(connection, cursor or await self._checkpoint(connection))
                await pause(self._stop, EVERY_S)

    async def _goes_on(self, connection: Connection) -> bool:
        """Whether to look again over this session: a silent one is ended, and replaced."""
        if self._stop.is_set():
            return False
        usable = await connection.is_usable()
        if not usable:
            connection.terminate()
        return usable

    async def _look(self, connection: asyncpg.Connection, cursor: Cursor) -> None:
        behind = await due(connection, cursor)
        oldest = await connection.fetchval(OLDEST_TRANSACTION)
        if self._checkpoint is not None:  # forgotten meanwhile
            self._backlog = Backlog(behind.events, behind.seconds, oldest)
            self._looked_at = self._clock()


async def due(connection: asyncpg.Connection, cursor: Cursor) -> Due:
    """Return what is committed and not published, over a session with the window's settings."""
    if cursor.s1 is None:  # between windows: nothing of the next one is published
        return await _due_in_window(connection, cursor.s0, cursor.s0, BETWEEN_WINDOWS)
    return await _due_in_window(connection, cursor.s0, cursor.s1, cursor.after)


async def _due_in_window(
    connection: asyncpg.Connection, s0: Snapshot, s1: Snapshot, after: tuple[int, int]
) -> Due:
    """Return what is left of the window's late and new rows, and what lies beyond it."""
    late = await connection.fetchrow(LATE, s0.in_progress, after[0])
    new = await connection.fetchrow(NEW, after[1], s1.xmax)
    assert late is not None  # noqa: S101 - an aggregate returns its row
    assert new is not None  # noqa: S101 - the same
    seconds = max(late["seconds"], new["seconds"])
    if new["position"] is None:
        return Due(late["events"], seconds)
    newest = await connection.fetchval(NEWEST)
    return Due(late["events"] + newest - new["position"] + 1, seconds)
