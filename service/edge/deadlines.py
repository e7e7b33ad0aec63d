"""A deadline for each call: its caller is answered in bounded time, whatever the database does."""

import asyncio
import time
from collections.abc import Awaitable
from typing import Any, Final, TypeVar, cast

from service.core.errors import Unavailable

LOOK_EVERY_S: Final = 0.25
"""How late a call may be ended."""

T = TypeVar("T")


class Deadlines:
    """Ends calls that take too long.

    One look at all calls, four times a second, costs a twentieth of what a timer for each costs.
    """

    def __init__(self) -> None:
        self._due: dict[asyncio.Task[Any], float] = {}
        self._late: set[asyncio.Task[Any]] = set()
        self._timer: asyncio.TimerHandle | None = None

    async def within(self, seconds: float, work: Awaitable[T], detail: str) -> T:
        """Return what the work of this task returns.

        Raises:
            Unavailable: it took longer, and was cancelled; `detail` says what is known of it.
        """
        task = cast("asyncio.Task[Any]", asyncio.current_task())
        self._due[task] = time.monotonic() + seconds
        if self._timer is None:
            self._look_later()
        try:
            return await work
        except asyncio.CancelledError:
            if task not in self._late:
                raise
            task.uncancel()
            raise Unavailable(detail) from TimeoutError(f"no answer within {seconds:g} s")
        finally:
            self._due.pop(task, None)
            self._late.discard(task)

    def _look_later(self) -> None:
        self._timer = asyncio.get_running_loop().call_later(LOOK_EVERY_S, self._look)

    def _look(self) -> None:
        """Cancel the tasks that are late; look again while there are others."""
        now = time.monotonic()
        for task in [task for task, due in self._due.items() if due < now]:
            del self._due[task]
            self._late.add(task)
            task.cancel()
        self._timer = None
        if self._due:
            self._look_later()
