"""When to look again: at a writer's hint, or after a wait that doubles while nothing comes."""

import asyncio
import contextlib
from typing import Self

import asyncpg

from outbox_worker.sessions import connect, disconnect

CHANNEL = "outbox"
# A poll costs about half a millisecond of CPU: cheap while events come, and rare when none do.
SHORTEST_WAIT_S = 0.002
LONGEST_WAIT_S = 0.5
LISTEN_TIMEOUT_S = 10


class HintsLostError(Exception):
    """No hint would come any more, and polls alone are slow."""


class Wakeup:
    """LISTEN on a session of its own, with a poll under it: a lost hint costs one poll."""

    def __init__(self, connection: asyncpg.Connection) -> None:
        self._connection = connection
        self._hint = asyncio.Event()
        self._wait_s = SHORTEST_WAIT_S
        connection.add_termination_listener(self.notified)

    @classmethod
    async def open(cls, url: str) -> Self:
        """Connect and listen."""
        connection = await connect(url, "wake-up", timeout_s=LISTEN_TIMEOUT_S)
        wakeup = cls(connection)
        await connection.add_listener(CHANNEL, wakeup.notified)
        return wakeup

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
