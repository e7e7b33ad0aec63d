"""How long to wait before trying again: capped, with jitter, and over at once when told to stop."""

import asyncio
import contextlib
import random

SHORTEST_S = 0.05
LONGEST_S = 5.0


class Backoff:
    """Waits that double."""

    def __init__(self, stop: asyncio.Event) -> None:
        self._stop = stop
        self._next_s = SHORTEST_S

    def reset(self) -> None:
        """Begin with the shortest wait again."""
        self._next_s = SHORTEST_S

    async def wait(self) -> None:
        """Wait, between half and all of what it is by now."""
        delay_s = self._next_s * random.uniform(0.5, 1)  # noqa: S311 - jitter is no secret
        self._next_s = min(2 * self._next_s, LONGEST_S)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(delay_s):
                await self._stop.wait()
