"""A deadline for each call: its caller is answered in bounded time, whatever the database does."""

import asyncio
import math
import time
from collections.abc import Awaitable
from typing import Any, Final, TypeVar, cast

from service.core.errors import Unavailable

LOOK_EVERY_S: Final = 0.25
"""How late a call may be ended."""
LATE: Final = math.inf
"""The deadline of a call that has been cancelled for it."""

T = TypeVar("T")


class Deadlines:
    """Ends calls that take too long.

    One look at all calls, four times a second, costs a twentieth of what a timer for each costs.
    """

    def __init__(self) -> None:
        self._due: dict[asyncio.Task[Any], float] = {}
        """When each call is to be ended, by the monotonic clock; LATE once it is."""
        self._timer: asyncio.TimerHandle | None = None
        self._loop: asyncio.AbstractEventLoop | None = None

    async def within(self, seconds: float, work: Awaitable[T], detail: str) -> T:
        """Return what the work of this task returns.

        Raises:
            Unavailable: it took longer, and was cancelled; `detail` says what is known of it.
        """
        if self._timer is None:
            self._loop = asyncio.get_running_loop()
            self._timer = self._loop.call_later(LOOK_EVERY_S, self._look)
        # Without the loop, this makes a system call before Python 3.12.
        task = cast("asyncio.Task[Any]", asyncio.current_task(self._loop))
        self._due[task] = time.monotonic() + seconds
        try:
            return await work
        except asyncio.CancelledError:
            if self._due[task] != LATE:
                raise
            task.uncancel()
            raise Unavailable(detail) from TimeoutError(f"no answer within {seconds:g} s")
        finally:
            del self._due[task]

    def _look(self) -> None:
        """Cancel the tasks that are late; look again while there are others."""
        now = time.monotonic()
        for task in [task for task, due in self._due.items() if due < now]:
            self._due[task] = LATE
            task.cancel()
        self._timer = None
        if self._due and self._loop is not None:
            self._timer = self._loop.call_later(LOOK_EVERY_S, self._look)
