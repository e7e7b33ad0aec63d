"""Background tasks that the service depends on: one that ends is reported and started again."""

import asyncio
import logging
from collections.abc import Callable, Coroutine
from typing import Final

from service.logs import reason

RESTART_S: Final = 0.1
"""Between the end of a task and its next start: a task that fails at once must not fill the log."""

log = logging.getLogger(__name__)


class SupervisedTask:
    """A task that runs until it is stopped. Whatever ends it earlier, it is started again."""

    def __init__(
        self,
        name: str,
        work: Callable[[], Coroutine[object, object, None]],
        on_end: Callable[[], None] = lambda: None,
    ) -> None:
        """Take what to run, and what to call when it has ended without being stopped."""
        self._name = name
        self._work = work
        self._on_end = on_end
        self._stopping = False
        self._loop = asyncio.get_running_loop()
        self._task = self._start()

    def _start(self) -> asyncio.Task[None]:
        self._task = self._loop.create_task(self._work(), name=self._name)
        self._task.add_done_callback(self._ended)
        return self._task

    def _ended(self, task: asyncio.Task[None]) -> None:
        """Report a task that ended by an error or by a cancellation that nobody asked for."""
        error = None if task.cancelled() else task.exception()
        if self._stopping:
            return
        cause = "cancelled" if task.cancelled() else reason(error) if error else "returned"
        log.error("task.ended", extra={"task": self._name, "error": cause}, exc_info=error)
        self._on_end()
        self._loop.call_later(RESTART_S, self._restart)

    def _restart(self) -> None:
        if not self._stopping:
            self._start()

    async def stop(self, wait_s: float = 0.0) -> None:
        """Let it end by itself for so long, then cancel it."""
        self._stopping = True
        if wait_s:
            await asyncio.wait({self._task}, timeout=wait_s)
        self._task.cancel()
        await asyncio.wait({self._task})
