"""Waiting, but never beyond the stop; and ever longer before the same thing is tried again."""

import asyncio
import contextlib
import random
from typing import Any

SHORTEST_S = 0.05
LONGEST_S = 2.0


async def pause(stop: asyncio.Event, seconds: float) -> None:
    """Wait for so long, or until told to stop."""
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(seconds):
            await stop.wait()


class Backoff:
    """Waits that double up to a cap, with jitter."""

    def __init__(self, stop: asyncio.Event) -> None:
        self._stop = stop
        self._next_s = SHORTEST_S

    def reset(self) -> None:
        """Begin with the shortest wait again."""
        self._next_s = SHORTEST_S

    async def wait(self) -> None:
        """Wait between half and all of what it is by now."""
        seconds = self._next_s * random.uniform(0.5, 1)  # noqa: S311 - jitter is no secret
        self._next_s = min(2 * self._next_s, LONGEST_S)
        await pause(self._stop, seconds)


def retrieve(future: asyncio.Future[Any]) -> None:
    """Retrieve an error that nobody may wait for any more: otherwise asyncio logs it."""
    if not future.cancelled():
        future.exception()
