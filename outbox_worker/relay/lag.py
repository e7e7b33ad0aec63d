"""The relay's lag, the standbys and the ring's fill, measured every few seconds over a session."""

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import NamedTuple

import asyncpg

from outbox_worker.incident import Incident
from outbox_worker.logs import get_logger, reason
from outbox_worker.postgres.cursor import NO_ROWS_AFTER, Cursor, Snapshot
from outbox_worker.postgres.sessions import ERRORS, LEADER, Connection, application_name, session
from outbox_worker.postgres.task_progress import Task, running_if_readable
from outbox_worker.postgres.window import PLANNER_SETTINGS
from outbox_worker.relay import ring
from outbox_worker.relay.metrics import KnownGauge, Metrics, Sample
from outbox_worker.relay.ring import Day
from outbox_worker.tasks import pause

log = get_logger(__name__)

EVERY_S = 5
BEGIN_EVERY_S = 1
MEASURE_TIMEOUT_S = 5
"""The limit of each statement. A session whose connection a network forgot is replaced within 10 s."""
KNOWN_FOR_S = 2 * EVERY_S
"""The time for which the gauges show a measurement, because the next one may be late."""

# The late rows that are not published. $1 in-progress xids of s0, $2 the position of the last late
# row that is published. `position + 0` keeps the planner from the index on position.
LATE = """
SELECT count(*) AS events,
    coalesce(max(extract(EPOCH FROM clock_timestamp() - created_at)), 0)::float8 AS seconds
FROM outbox
WHERE xid = ANY ($1::xid8[]) AND position + 0 > $2
"""

# The next new row of the window, and the first row after the window. $1 the position of the last new
# row that is published, $2 xmax(s1).
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

# The `after` of a cursor between windows: every late row is due, and of the new rows only those
# after the last window.
BETWEEN_WINDOWS = (0, NO_ROWS_AFTER)

NEWEST = """
SELECT position
FROM outbox
ORDER BY position DESC
LIMIT 1
"""

# The oldest open transaction, whose rows become late rows when it commits, and the number of standbys:
# each worker has one session that holds or polls the leader's lock. Any role may read application_name.
# $1 the application_name of these sessions, $2 the leader's backend.
SESSIONS = """
SELECT
    coalesce(max(extract(EPOCH FROM clock_timestamp() - xact_start)) FILTER (
        WHERE backend_xid IS NOT NULL
    ), 0)::float8 AS transaction_s,
    count(*) FILTER (WHERE application_name = $1 AND pid <> $2) AS standbys
FROM pg_stat_activity
WHERE datname = current_database()
"""


class Due(NamedTuple):
    """The approximate number of events that are committed and not published, and the oldest's age."""

    events: int
    seconds: float


class Measured(NamedTuple):
    """What was measured last."""

    events: int
    """The approximate number of committed events that are not published."""
    oldest_s: float
    """The age of the oldest of these events, 0 if there is none."""
    transaction_s: float
    """The age of the oldest open transaction, which may add late rows; 0 if there is none."""
    standbys: int
    days: list[Day]
    tasks: list[Task]
    """The replays, snapshots and rebases that run now."""


ReadCursor = Callable[[asyncpg.Connection], Awaitable[Cursor]]


class Lag:
    """Keeps the gauges up to date in the worker that has the lock, also while Kafka is unreachable.

    Its session outlives the worker's terms, because a term ends immediately if Kafka refuses connections.
    The gauges are absent if Postgres does not answer, and in a process that does not lead.
    """

    def __init__(
        self,
        url: str,
        stop: asyncio.Event,
        metrics: Metrics,
        clearing: Callable[[], int | None] = lambda: None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._url = url
        self._stop = stop
        self._clock = clock
        self._clearing = clearing
        self._leader = 0
        self._checkpoint: ReadCursor | None = None
        self._published: Callable[[], Cursor] | None = None
        self._measured: Measured | None = None
        self._measured_at = 0.0
        self._incident = Incident()
        self._show(metrics.lag_events, lambda now: now.events)
        self._show(metrics.lag_seconds, lambda now: now.oldest_s)
        self._show(metrics.oldest_transaction, lambda now: now.transaction_s)
        self._show(metrics.task_events, lambda now: {each.kind: each.events for each in now.tasks})
        self._show(
            metrics.task_progress,
            lambda now: {each.kind: each.events / each.total for each in now.tasks if each.total},
        )
        self._show(metrics.standbys, lambda now: now.standbys)
        self._show(metrics.ring_days, lambda now: ring.count(now.days))
        self._show(metrics.ring_bytes, lambda now: sum(day.bytes for day in now.days))

    def _show(self, gauge: KnownGauge, value: Callable[[Measured], Sample]) -> None:
        """Let a gauge show a value of the last measurement."""

        def read() -> Sample:
            measured = self.known()
            return None if measured is None else value(measured)

        gauge.read = read

    def begin(self, checkpoint: ReadCursor, leader: int) -> None:
        """Begin to measure from the checkpoint: the worker has the lock, and no term yet.

        `leader` is the backend of the session that holds the lock.
        """
        self._checkpoint = checkpoint
        self._leader = leader

    def follow(self, published: Callable[[], Cursor]) -> None:
        """Measure from a term's cursor, also after the end of the term."""
        self._published = published

    def forget(self) -> None:
        """Stop measuring: another process may lead, and measures from a newer cursor."""
        self._checkpoint = self._published = self._measured = None

    def known(self) -> Measured | None:
        """Return the last measurement; None if there is none, or it is older than KNOWN_FOR_S."""
        recent = self._clock() - self._measured_at <= KNOWN_FOR_S
        return self._measured if recent else None

    async def run(self) -> None:
        """Measure every few seconds until the stop event; an error ends only the session."""
        while not self._stop.is_set():
            try:
                if self._checkpoint is not None:
                    await self._measure_repeatedly()
            except ERRORS as error:
                if self._incident.fail(type(error).__name__):
                    log.warning("lag.unknown", error=reason(error))
            await pause(self._stop, BEGIN_EVERY_S)

    async def _measure_repeatedly(self) -> None:
        async with session(
            self._url, "lag", timeout_s=MEASURE_TIMEOUT_S, **PLANNER_SETTINGS
        ) as connection:
            while await self._may_continue(connection) and self._checkpoint is not None:
                cursor = self._published and self._published()
                await self._measure(connection, cursor or await self._checkpoint(connection))
                await pause(self._stop, EVERY_S)

    async def _may_continue(self, connection: Connection) -> bool:
        """Whether to measure again over this session; one that does not answer is terminated."""
        if self._stop.is_set():
            return False
        usable = await connection.is_usable()
        if not usable:
            connection.terminate()
        return usable

    async def _measure(self, connection: asyncpg.Connection, cursor: Cursor) -> None:
        behind = await due(connection, cursor)
        (sessions,) = await connection.fetch(SESSIONS, application_name(LEADER), self._leader)
        days = await ring.read(
            connection,
            oldest_s=behind.seconds if behind.events else None,
            clearing=self._clearing(),
        )
        tasks = await running_if_readable(connection)
        if self._checkpoint is not None:  # forget() may have been called meanwhile
            self._measured = Measured(
                behind.events,
                behind.seconds,
                sessions["transaction_s"],
                sessions["standbys"],
                days,
                tasks,
            )
            self._measured_at = self._clock()
            if failures := self._incident.succeed():
                log.info("lag.known", failures=failures)


async def due(connection: asyncpg.Connection, cursor: Cursor) -> Due:
    """Return what is committed and not published; the session needs PLANNER_SETTINGS."""
    if cursor.s1 is None:  # between windows: no row of the next one is published
        return await _due_in_window(connection, cursor.s0, cursor.s0, BETWEEN_WINDOWS)
    return await _due_in_window(connection, cursor.s0, cursor.s1, cursor.after)


async def _due_in_window(
    connection: asyncpg.Connection, s0: Snapshot, s1: Snapshot, after: tuple[int, int]
) -> Due:
    """Return what is left of the window's late and new rows, and the rows after the window."""
    (late,) = await connection.fetch(LATE, s0.in_progress, after[0])
    (new,) = await connection.fetch(NEW, after[1], s1.xmax)
    seconds = max(late["seconds"], new["seconds"])
    if new["position"] is None:
        return Due(late["events"], seconds)
    newest = await connection.fetchval(NEWEST)
    return Due(late["events"] + newest - new["position"] + 1, seconds)
