"""Pausing: while the database has a pause, the leader publishes nothing.

The leader's session reads the pause before each term, and every second as its sign of life, so the pause
costs the publishing of pages no statement. It survives restarts and take-overs. A page in flight is
finished. Then the leader confirms the pause: it changes the application_name of its session, which the
command `pause` waits for. A former leader cannot publish after that, because a term begins with fencing.
"""

import time

import asyncpg

from outbox_worker.logs import get_logger
from outbox_worker.postgres import pause
from outbox_worker.postgres.pause import Pause
from outbox_worker.postgres.sessions import LEADER, application_name
from outbox_worker.relay.health import Health
from outbox_worker.relay.metrics import Metrics

log = get_logger(__name__)

CONFIRMED = application_name(f"{LEADER}, paused")
"""The name of the leader's session while it publishes nothing."""


class Pausing:
    """The pause as this process has read it last. Only the worker that has the lock reads it."""

    def __init__(self, health: Health, metrics: Metrics) -> None:
        self.pause: Pause | None = None
        self.holding = False
        """Whether a term waits for the end of the pause: no page is in flight."""
        self._health = health
        self._known = False
        self._logged: Pause | None = None
        self._readable = self._unreadable_logged = self._confirmed = False
        metrics.paused.read = self._since

    async def begin(self, connection: asyncpg.Connection) -> None:
        """Read the pause for the first time over a session that has the lock."""
        self._readable = self._confirmed = False
        await self.refresh(connection)

    async def refresh(self, connection: asyncpg.Connection, timeout_s: float | None = None) -> None:
        """Read the pause, or whether it can be read: the server executes a statement in any case."""
        if self._readable:
            found = await pause.read(connection, timeout_s)
            await self._confirm(connection, found, timeout_s)
            self._note(found)
        elif await pause.is_readable(connection, timeout_s):
            self._readable, self._unreadable_logged = True, False
            self._note(await pause.read(connection, timeout_s))
        elif not self._unreadable_logged:
            self._unreadable_logged = True
            log.warning("relay.pause_unreadable")

    def forget(self) -> None:
        """Forget the pause: another process may lead, and knows it."""
        self._known = False
        self.pause = self._health.pause = None

    def _note(self, found: Pause | None) -> None:
        self._known = True
        self.pause = self._health.pause = found
        if found == self._logged:
            return
        if found is not None:
            log.info("relay.paused", since=found.since, by=found.by)
        elif self._logged is not None:
            log.info("relay.resumed", paused_s=round(time.time() - self._logged.since, 1))
        self._logged = found

    async def _confirm(
        self, connection: asyncpg.Connection, found: Pause | None, timeout_s: float | None
    ) -> None:
        """Show in the session's name whether the pause is in effect; a term resumes only after that."""
        confirmed = found is not None and self.holding
        if confirmed != self._confirmed:
            name = CONFIRMED if confirmed else application_name(LEADER)
            await connection.execute(f"SET application_name = '{name}'", timeout=timeout_s)
            self._confirmed = confirmed

    def _since(self) -> float | None:
        """Return when the pause began, 0 without one; None: this process does not know."""
        if not self._known:
            return None
        return 0.0 if self.pause is None else self.pause.since
