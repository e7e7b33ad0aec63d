"""Wakes the relay up: at a notification, or after a wait that doubles while the outbox is empty."""

import asyncio
import contextlib
from typing import Self

from outbox_worker.incident import Incident
from outbox_worker.logs import get_logger, reason
from outbox_worker.postgres.sessions import ERRORS, Connection, connect, disconnect

log = get_logger(__name__)

CHANNEL = "outbox"
SHORTEST_WAIT_S = 0.002
LONGEST_WAIT_S = 0.5
"""A poll takes about half a millisecond of CPU time, so polls of an empty outbox are rare."""
LISTEN_TIMEOUT_S = 10
CHECK_EVERY_S = 2
"""The pause between two checks of the session. It sends no statements, so nothing else would notice that
its connection is lost."""


class HintsLostError(Exception):
    """The session that listens has ended; polls alone would delay events."""


class Wakeup:
    """LISTEN on a session of its own, and polls: a lost notification delays events until the next poll."""

    def __init__(self, url: str) -> None:
        self._url = url
        self._notified = asyncio.Event()
        self._wait_s = SHORTEST_WAIT_S
        self._incident = Incident()

    @classmethod
    async def open(cls, url: str) -> Self:
        """Connect, and listen to the channel."""
        wakeup = cls(url)
        await wakeup._listen()
        return wakeup

    async def _listen(self) -> None:
        connection = await connect(self._url, "wake-up", timeout_s=LISTEN_TIMEOUT_S)
        try:
            await connection.add_listener(CHANNEL, self.notified)
        except BaseException:
            connection.terminate()
            raise
        connection.add_termination_listener(self.notified)
        self._connection: Connection = connection

    async def keep(self) -> None:
        """Replace a session that does not answer, until cancelled. Polls continue meanwhile."""
        while True:
            await asyncio.sleep(CHECK_EVERY_S)
            session = self._connection
            if session.is_closed() or await session.is_usable():
                continue
            try:
                await self._listen()
            except ERRORS as error:
                if self._incident.fail(type(error).__name__):
                    log.warning("wakeup.failed", error=reason(error))
                continue
            session.terminate()
            self.notified()  # a notification may have been lost
            if failures := self._incident.succeed():
                log.info("wakeup.recovered", failures=failures)

    def notified(self, *_: object) -> None:
        """End the present wait, or the next one if there is none."""
        self._notified.set()

    def reset(self) -> None:
        """Begin with the shortest wait again, after a page with rows."""
        self._wait_s = SHORTEST_WAIT_S

    async def wait(self) -> None:
        """Return at a notification or for a poll; HintsLostError if the session has ended."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(self._wait_s):
                await self._notified.wait()
        self._wait_s = min(2 * self._wait_s, LONGEST_WAIT_S)
        self._notified.clear()
        if self._connection.is_closed():
            message = "the session that listens has ended"
            raise HintsLostError(message)

    async def close(self) -> None:
        """End the session."""
        await disconnect(self._connection)
