"""Waiting for a condition with a deadline: the only place where a test pauses."""

import asyncio
import os
import time
from collections.abc import Awaitable, Callable
from typing import TypeVar

T = TypeVar("T")
TIMEOUT_S = 60.0
LOOK_EVERY_S = 0.02
LONG_S = 60.0
FAULT_S = float(os.environ.get("FAULT_SECONDS", "4"))
"""How long a fault lasts, in seconds: 4 in `make test`, LONG_S in `make test-faults`."""


async def until(look: Callable[[], Awaitable[T]], timeout_s: float = TIMEOUT_S) -> T:
    """Return what `look` returns as soon as that is true; TimeoutError at the deadline."""
    async with asyncio.timeout(timeout_s):
        while not (found := await look()):  # noqa: ASYNC110 - another process cannot set an asyncio.Event
            await asyncio.sleep(LOOK_EVERY_S)
    return found


async def last(seconds: float) -> None:
    """Let a fault last for so long."""
    await asyncio.sleep(seconds)


def eventually(look: Callable[[], object], timeout_s: float = TIMEOUT_S) -> None:
    """Return when `look` says so; TimeoutError at the deadline. For tests without an event loop."""
    deadline = time.monotonic() + timeout_s
    while not look():
        if time.monotonic() > deadline:
            raise TimeoutError
        time.sleep(LOOK_EVERY_S)
