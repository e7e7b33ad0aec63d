"""Tasks: waiting until a stop event, retrying with back-off, running in the background."""

import asyncio
import contextlib
import random
from collections.abc import Coroutine
from typing import Any

SHORTEST_S = 0.05
LONGEST_S = 2.0


async def pause(stop: asyncio.Event, seconds: float) -> None:
    """Wait until the time is over or the event is set."""
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(seconds):
            await stop.wait()


class Backoff:
    """The wait between two attempts: it doubles up to LONGEST_S, and has jitter."""

    def __init__(self, stop: asyncio.Event) -> None:
        self._stop = stop
        self._next_s = SHORTEST_S

    def reset(self) -> None:
        """Begin with the shortest wait again."""
        self._next_s = SHORTEST_S

    async def wait(self) -> None:
        """Wait for a random time between half of the present wait and all of it."""
        seconds = self._next_s * random.uniform(0.5, 1)  # noqa: S311 - jitter is no secret
        self._next_s = min(2 * self._next_s, LONGEST_S)
        await pause(self._stop, seconds)


async def run_with(work: Coroutine[Any, Any, None], *background: Coroutine[Any, Any, None]) -> None:
    """Run the work with background tasks until it ends; an error in any of them ends all."""
    tasks = [asyncio.create_task(each) for each in (work, *background)]
    try:
        pending = set(tasks)
        while tasks[0] in pending:
            done, pending = await asyncio.wait(pending, return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                task.result()
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)  # only the first error is raised


def retrieve_error(future: asyncio.Future[Any]) -> None:
    """Retrieve a future's error; asyncio logs an error that was not retrieved."""
    if not future.cancelled():
        future.exception()
