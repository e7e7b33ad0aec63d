"""What is reported while the service goes on: background tasks that end, and problems that last."""

import asyncio
import logging
from collections.abc import Callable, Coroutine
from typing import Final

from structlog.stdlib import BoundLogger

from service.core.errors import Unavailable
from service.logs import get_logger, reason

RESTART_S: Final = 0.1
"""How long a task that ended waits for its next start."""
LASTING_S: Final = 5.0
"""A task that ends before this time counts as failed at its start; after it, as recovered."""
FAILURES: Final = 3
"""How many failures at the start, one after the other, make the process not ready."""

Work = Callable[[], Coroutine[object, object, None]]

log = get_logger(__name__)


class Supervisor:
    """The supervised tasks of this process."""

    def __init__(self) -> None:
        self._tasks: list[SupervisedTask] = []

    def start(
        self, name: str, work: Work, on_end: Callable[[], None] = lambda: None
    ) -> "SupervisedTask":
        """Start a task; `on_end` is called when it has ended without being stopped."""
        task = SupervisedTask(name, work, on_end)
        self._tasks.append(task)
        return task

    def failing(self) -> list[str]:
        """Return the names of the tasks that fail again and again."""
        return [task.name for task in self._tasks if task.failing]


class SupervisedTask:
    """A task that is started again when it ends before it is stopped.

    Each end is logged as `task.ended`, but the one at which the task counts as failing as
    `task.failing`, and further ones not at all until `task.recovered`.
    """

    def __init__(self, name: str, work: Work, on_end: Callable[[], None] = lambda: None) -> None:
        """Take what to run, and what to call when it has ended without being stopped."""
        self.name = name
        self._work = work
        self._on_end = on_end
        self._stopping = False
        self._failures = 0
        self._loop = asyncio.get_running_loop()
        self._task = self._start()

    @property
    def failing(self) -> bool:
        """Whether the task failed FAILURES times in a row, and has not run for LASTING_S since."""
        return self._failures >= FAILURES

    def _start(self) -> asyncio.Task[None]:
        self._started = self._loop.time()
        self._task = self._loop.create_task(self._work(), name=self.name)
        self._task.add_done_callback(self._ended)
        if self.failing:
            self._loop.call_later(LASTING_S, self._recovered, self._task)
        return self._task

    def _ended(self, task: asyncio.Task[None]) -> None:
        """Log the end of the task, unless it is being stopped, and start it again."""
        error = None if task.cancelled() else task.exception()
        if self._stopping:
            return
        lasted = self._loop.time() - self._started >= LASTING_S
        self._failures = 1 if lasted else self._failures + 1
        cause = "cancelled" if task.cancelled() else reason(error) if error else "returned"
        if self._failures < FAILURES:
            log.error("task.ended", task=self.name, error=cause, exc_info=error)
        elif self._failures == FAILURES:
            log.error("task.failing", task=self.name, error=cause, exc_info=error)
        self._on_end()
        self._loop.call_later(RESTART_S, self._restart)

    def _recovered(self, task: asyncio.Task[None]) -> None:
        if task is self._task and not task.done():
            self._failures = 0
            log.warning("task.recovered", task=self.name)

    def _restart(self) -> None:
        if not self._stopping:
            self._start()

    async def stop(self, wait_s: float = 0.0) -> None:
        """Wait for the end of the task, at most so long, then cancel it."""
        self._stopping = True
        if wait_s:
            await asyncio.wait({self._task}, timeout=wait_s)
        self._task.cancel()
        await asyncio.wait({self._task})


class LastingProblem:
    """Logs a problem when it begins, when the type of its error changes, and when it is over."""

    def __init__(self, log: BoundLogger, event: str, over: str) -> None:
        """Take the names of the two events."""
        self._log = log
        self._event = event
        self._over = over
        self._kind: str | None = None
        self._count = 0
        self.lasts = False

    def met(self, error: Exception, **fields: object) -> None:
        """Take note of a failure; an error that is not `Unavailable` is logged with its traceback."""
        cause = error.__cause__ or error
        kind = type(cause).__name__
        foreseen = isinstance(error, Unavailable)
        level = logging.WARNING if foreseen else logging.ERROR
        self._log.log(
            logging.DEBUG if kind == self._kind else level,
            self._event,
            **fields,
            error=reason(cause),
            exc_info=None if foreseen else error,
        )
        self._kind, self.lasts = kind, True
        self._count += 1

    def over(self) -> None:
        """Take note of a success."""
        if self.lasts:
            self._log.warning(self._over, failures=self._count)
            self._kind, self._count, self.lasts = None, 0, False
