"""Waiting for a condition, up to a deadline: the only place where a test pauses."""

import asyncio
import os
import time
from collections.abc import Awaitable, Callable
from typing import TypeVar

T = TypeVar("T")
TIMEOUT_S = 60.0
"""The deadline of a condition for which the product states none."""
BUSY_S = 10.0
"""What a test adds to a deadline that the product states: the machine runs other tests as well."""
LOOK_EVERY_S = 0.02
LONG_S = 60.0
FAULT_S = float(os.environ.get("FAULT_SECONDS", "4"))
"""The length of a fault: 4 s in `make test`, LONG_S in `make test-faults`."""


async def until(look: Callable[[], Awaitable[T]], timeout_s: float = TIMEOUT_S) -> T:
    """Call `look` until it returns a true value, and return that; TimeoutError at the deadline."""
    async with asyncio.timeout(timeout_s):
        while not (found := await look()):  # noqa: ASYNC110 - another process cannot set an asyncio.Event
            await asyncio.sleep(LOOK_EVERY_S)
    return found


async def last(seconds: float) -> None:
    """Pause while a fault lasts, or while nothing happens."""
    await asyncio.sleep(seconds)


def eventually(look: Callable[[], object], timeout_s: float = TIMEOUT_S) -> None:
    """Call `look` until it returns a true value; as `until`, for tests without an event loop."""
    deadline = time.monotonic() + timeout_s
    while not look():
        if time.monotonic() > deadline:
            raise TimeoutError
        time.sleep(LOOK_EVERY_S)
