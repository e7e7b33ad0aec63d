"""Waiting for a condition, with a deadline: the only way a test waits."""

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import TypeVar

POLL_S = 0.02
T = TypeVar("T")


def eventually(condition: Callable[[], object], *, timeout_s: float = 10) -> None:
    """Return when the condition holds; AssertionError when it does not in time."""
    deadline = time.monotonic() + timeout_s
    while not condition():
        if time.monotonic() > deadline:
            message = f"not so within {timeout_s} s"
            raise AssertionError(message)
        time.sleep(POLL_S)


async def soon(condition: Callable[[], Awaitable[T]], *, timeout_s: float = 10) -> T:
    """Return the first true answer; AssertionError when there is none in time."""
    deadline = time.monotonic() + timeout_s
    while not (answer := await condition()):
        if time.monotonic() > deadline:
            message = f"not so within {timeout_s} s; the last answer was {answer!r}"
            raise AssertionError(message)
        await asyncio.sleep(POLL_S)
    return answer
