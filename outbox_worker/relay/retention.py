"""Retention: TRUNCATE of each slot of the ring whose rows are all published and old enough."""

import asyncio
import time
from collections.abc import Callable
from datetime import datetime

import asyncpg

from outbox_worker.incident import Incident
from outbox_worker.logs import first_line, get_logger
from outbox_worker.postgres.cursor import BEGINNING, Cursor, Snapshot
from outbox_worker.postgres.sessions import ERRORS, session
from outbox_worker.relay.metrics import Metrics
from outbox_worker.relay.on_change import OnChange
from outbox_worker.settings import Settings
from outbox_worker.tasks import pause

log = get_logger(__name__)

SLOTS = 16
DAY_S = 86_400
EVERY_S = 600
CHECK_TIMEOUT_S = 600
SESSION = {"lock_timeout": "100ms"}

# The first row of a slot is its oldest, so this quick statement is enough to skip a young slot.
FIRST_ROW = """
SELECT created_at
FROM ONLY {slot}
LIMIT 1
"""

# Reads the whole slot, so it runs before the lock is taken. $1 the time from which rows are kept,
# $2 the snapshot up to which all rows are published. COMMITTED_SINCE finds the rows that are not
# visible in this statement's own snapshot.
CHECK_SLOT = """
SELECT
    pg_current_snapshot()::text AS checked,
    EXISTS (
        SELECT FROM ONLY {slot}
        WHERE created_at >= to_timestamp($1) OR NOT pg_visible_in_snapshot(xid, $2::pg_snapshot)
    ) AS in_use
"""

# Waits until no session reads the slot; later readers and writers of the slot wait behind this statement.
# lock_timeout limits both waits. Writers are rare: they write to the slot only on its own day.
LOCK_SLOT = """
LOCK TABLE ONLY {slot} IN ACCESS EXCLUSIVE MODE
"""

# Rows that were committed after CHECK_SLOT. It has to be a statement of its own, because its snapshot
# must be taken after the lock. $1 the in-progress xids of CHECK_SLOT's snapshot, $2 its xmax.
COMMITTED_SINCE = """
SELECT EXISTS (SELECT FROM ONLY {slot} WHERE xid = ANY ($1::xid8[]))
    OR EXISTS (SELECT FROM ONLY {slot} WHERE xid >= $2::xid8)
"""

CLEAR_SLOT = """
TRUNCATE ONLY {slot}
"""


class Retention:
    """Clears slots while the worker leads; a writer waits for it no longer than lock_timeout."""

    def __init__(
        self,
        settings: Settings,
        stop: asyncio.Event,
        metrics: Metrics,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._url = settings.session_database_url
        self._keep_s = settings.retention_days * DAY_S
        self._stop = stop
        self._metrics = metrics
        self._clock = clock
        self._on_change = OnChange()
        self._incident = Incident()
        self._published: Callable[[], Cursor] = lambda: BEGINNING
        self.clearing: int | None = None
        """The slot that is being checked or truncated now."""

    def follow(self, published: Callable[[], Cursor]) -> None:
        """Clear only rows that a term's cursor covers."""
        self._published = published

    async def run(self) -> None:
        """Clear the slots that are due, now and every ten minutes, until the stop event."""
        while not self._stop.is_set():
            await self.attempt()
            await pause(self._stop, EVERY_S)

    async def attempt(self) -> None:
        """Clear the slots that are due; log each class of error once until an attempt succeeds."""
        try:
            await self.run_once()
        except ERRORS as error:
            kind = type(error).__name__
            if self._incident.fail(kind):
                log.warning("retention.failed", kind=kind, detail=first_line(error))
        else:
            if failures := self._incident.succeed():
                log.info("retention.recovered", failures=failures)

    async def run_once(self) -> list[int]:
        """Clear the slots that are due, and return their numbers."""
        async with session(
            self._url, "retention", timeout_s=CHECK_TIMEOUT_S, **SESSION
        ) as connection:
            try:
                return [slot for slot in range(SLOTS) if await self._clear_if_due(connection, slot)]
            finally:
                self.clearing = None

    async def _clear_if_due(self, connection: asyncpg.Connection, slot: int) -> bool:
        """Clear a slot if all its rows are old and published; return whether it was cleared."""
        table = table_of(slot)
        keep_from = self._clock() - self._keep_s
        first = await first_created_at(connection, table)
        if first is None or first.timestamp() >= keep_from:
            return False
        self.clearing = slot
        published = self._published().s0
        (check,) = await connection.fetch(CHECK_SLOT.format(slot=table), keep_from, published)
        if check["in_use"]:
            return False
        try:
            cleared = await clear_unless_changed(
                connection, table, Snapshot.parse(check["checked"])
            )
        except asyncpg.LockNotAvailableError:
            if self._on_change.is_new(table, "held"):
                log.info("retention.slot_held", slot=slot)
            return False
        self._on_change.is_new(table, None)
        if cleared:
            self._metrics.slots_cleared.inc()
            log.info("retention.slot_cleared", slot=slot)
        return cleared


def table_of(slot: int) -> str:
    """Return the name of a slot's table."""
    return f"outbox_{slot:02}"


async def first_created_at(connection: asyncpg.Connection, table: str) -> datetime | None:
    """Return the time of a slot's first row, None if the slot is empty."""
    first: datetime | None = await connection.fetchval(FIRST_ROW.format(slot=table))
    return first


async def clear_unless_changed(
    connection: asyncpg.Connection, table: str, checked: Snapshot
) -> bool:
    """Truncate a slot, unless rows were committed after a snapshot; return whether it was truncated.

    Raises:
        LockNotAvailableError: another session reads the table for longer than lock_timeout.
    """
    async with connection.transaction():
        await connection.execute(LOCK_SLOT.format(slot=table))
        if await connection.fetchval(
            COMMITTED_SINCE.format(slot=table), checked.in_progress, checked.xmax
        ):
            return False
        await connection.execute(CLEAR_SLOT.format(slot=table))
    return True
