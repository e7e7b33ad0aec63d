"""The ring: days that are published and old enough are cleared, slot by slot, by TRUNCATE."""

import asyncio
import time
from collections.abc import Callable
from datetime import datetime

import asyncpg

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
LOOK_TIMEOUT_S = 600
SESSION = {"lock_timeout": "100ms"}

# No row is older than its slot's first, so this look is enough to leave a young slot alone.
FIRST_ROW = """
SELECT created_at
FROM ONLY {slot}
LIMIT 1
"""

# May take long, so it comes before the lock: $1 the oldest moment to keep, $2 the published
# snapshot. Rows that commit later are found by this statement's own snapshot.
LOOK = """
SELECT
    pg_current_snapshot()::text AS looked,
    EXISTS (
        SELECT FROM ONLY {slot}
        WHERE created_at >= to_timestamp($1) OR NOT pg_visible_in_snapshot(xid, $2::pg_snapshot)
    ) AS in_use
"""

# From here on the relay waits, and writers to this slot (there are none, a day or more after
# it). Without the time-out both of them would wait behind any session that reads the table.
LOCK_SLOT = """
LOCK TABLE ONLY {slot} IN ACCESS EXCLUSIVE MODE
"""

# A statement of its own, after the lock: a writer may have committed a row since the look.
# $1 the in-progress xids of that snapshot, $2 its xmax.
COMMITTED_SINCE = """
SELECT EXISTS (SELECT FROM ONLY {slot} WHERE xid = ANY ($1::xid8[]))
    OR EXISTS (SELECT FROM ONLY {slot} WHERE xid >= $2::xid8)
"""

CLEAR_SLOT = """
TRUNCATE ONLY {slot}
"""


class Retention:
    """Clears slots for as long as the worker leads; never blocks a writer beyond the time-out."""

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
        self._published: Callable[[], Cursor] = lambda: BEGINNING

    def follow(self, published: Callable[[], Cursor]) -> None:
        """Clear nothing beyond this cursor: a term's."""
        self._published = published

    async def run(self) -> None:
        """Clear what is due, now and every ten minutes."""
        while not self._stop.is_set():
            await self.attempt()
            await pause(self._stop, EVERY_S)

    async def attempt(self) -> None:
        """Clear what is due; an error is logged once, and the next attempt comes ten minutes later."""
        try:
            await self.run_once()
        except ERRORS as error:
            kind = type(error).__name__
            if self._on_change.is_new("retention", kind):
                log.warning("retention.failed", kind=kind, detail=first_line(error))
        else:
            self._on_change.is_new("retention", None)

    async def run_once(self) -> list[int]:
        """Clear every slot that is due; return their numbers."""
        async with session(
            self._url, "retention", timeout_s=LOOK_TIMEOUT_S, **SESSION
        ) as connection:
            return [slot for slot in range(SLOTS) if await self._clear_if_due(connection, slot)]

    async def _clear_if_due(self, connection: asyncpg.Connection, slot: int) -> bool:
        """Clear a slot if all that is in it is old and published; False if not, or not now."""
        table = table_of(slot)
        keep_from = self._clock() - self._keep_s
        first = await first_created_at(connection, table)
        if first is None or first.timestamp() >= keep_from:
            return False
        look = await connection.fetchrow(LOOK.format(slot=table), keep_from, self._published().s0)
        if look is None or look["in_use"]:
            return False
        try:
            cleared = await clear_unless_changed(connection, table, Snapshot.parse(look["looked"]))
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
    connection: asyncpg.Connection, table: str, looked: Snapshot
) -> bool:
    """Truncate a slot unless rows came since a snapshot; LockNotAvailableError where it is held."""
    async with connection.transaction():
        await connection.execute(LOCK_SLOT.format(slot=table))
        if await connection.fetchval(
            COMMITTED_SINCE.format(slot=table), looked.in_progress, looked.xmax
        ):
            return False
        await connection.execute(CLEAR_SLOT.format(slot=table))
    return True
