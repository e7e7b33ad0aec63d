"""When to look again: at a writer's hint, or after a wait that doubles while nothing comes."""

import asyncio
import contextlib
from typing import Self

from outbox_worker.postgres.sessions import ERRORS, Connection, connect, disconnect

CHANNEL = "outbox"
# A poll costs about half a millisecond of CPU: cheap while events come, and rare when none do.
SHORTEST_WAIT_S = 0.002
LONGEST_WAIT_S = 0.5
LISTEN_TIMEOUT_S = 10
# The session waits for notifications, so that nothing else shows whether it is still connected.
CHECK_EVERY_S = 2


class HintsLostError(Exception):
    """No hint would come any more, and polls alone are slow."""


class Wakeup:
    """LISTEN on a session of its own, with a poll under it: a lost hint costs one poll."""

    def __init__(self, url: str) -> None:
        self._url = url
        self._hint = asyncio.Event()
        self._wait_s = SHORTEST_WAIT_S

    @classmethod
    async def open(cls, url: str) -> Self:
        """Connect and listen."""
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
        """Replace the session when it is silent, until cancelled; polls go on meanwhile."""
        while True:
            await asyncio.sleep(CHECK_EVERY_S)
            silent = self._connection
            if silent.is_closed() or await silent.is_usable():
                continue
            with contextlib.suppress(*ERRORS):
                await self._listen()
                silent.terminate()
                self.notified()  # a hint may have been lost

    def notified(self, *_: object) -> None:
        """End the wait that is on, or the next one."""
        self._hint.set()

    def reset(self) -> None:
        """Begin with short waits again: something came."""
        self._wait_s = SHORTEST_WAIT_S

    async def wait(self) -> None:
        """Return at a hint, or when it is time to look anyway; HintsLostError without a session."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(self._wait_s):
                await self._hint.wait()
        self._wait_s = min(2 * self._wait_s, LONGEST_WAIT_S)
        self._hint.clear()
        if self._connection.is_closed():
            message = "the session that listens has ended"
            raise HintsLostError(message)

    async def close(self) -> None:
        """End the session."""
        await disconnect(self._connection)
