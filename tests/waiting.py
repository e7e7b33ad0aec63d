"""Waiting for a condition with a deadline: the only place where a test pauses."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import TypeVar

T = TypeVar("T")
TIMEOUT_S = 30.0
LOOK_EVERY_S = 0.02


async def until(look: Callable[[], Awaitable[T]], timeout_s: float = TIMEOUT_S) -> T:
    """Return what `look` returns as soon as that is true; TimeoutError at the deadline."""
    async with asyncio.timeout(timeout_s):
        while not (found := await look()):  # noqa: ASYNC110 - other processes set no event of ours
            await asyncio.sleep(LOOK_EVERY_S)
    return found
