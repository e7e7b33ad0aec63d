"""Background tasks that are restarted when they end, and problems that are logged once while they last."""

import asyncio
import logging
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from typing import Final

from structlog.stdlib import BoundLogger

from service.core.errors import Unavailable
from service.incident import Incident
from service.logs import get_logger, reason

RESTART_S: Final = 0.1
"""Time between the end of a task and its next start."""
LASTING_S: Final = 5.0
"""A task that has run for this time is recovered: its earlier failures do not count any more."""
FORGET_S: Final = 60.0
"""A task that ends in the same way again is logged again only after it has run for this time."""
FAILURES: Final = 3
"""Failures in a row that make the process not ready."""
QUIET_S: Final = 10.0
"""Time without a failure after which a success ends a problem. Calls to a locked row fail while others
succeed, and a write with an unreachable primary fails while reads succeed."""

Work = Callable[[], Coroutine[object, object, None]]

log = get_logger(__name__)


class Supervisor:
    """The supervised tasks of this process."""

    def __init__(self) -> None:
        self._tasks: list[SupervisedTask] = []

    def start(
        self, name: str, work: Work, on_end: Callable[[], None] = lambda: None
    ) -> "SupervisedTask":
        """Start a task; `on_end` is called each time that it ends without being stopped."""
        task = SupervisedTask(name, work, on_end)
        self._tasks.append(task)
        return task

    @asynccontextmanager
    async def running(self, name: str, work: Work) -> AsyncIterator[None]:
        """Run a task until the end of the context."""
        task = self.start(name, work)
        try:
            yield
        finally:
            await task.stop()

    def failing(self) -> list[str]:
        """Return the names of the tasks that fail again and again."""
        return [task.name for task in self._tasks if task.failing]


class SupervisedTask:
    """A task that is restarted when it ends without being stopped.

    The first end is logged as `task.ended`, failure number FAILURES in a row as `task.failing`, and further
    ones only if their error is of another class, until `task.recovered`.
    """

    def __init__(self, name: str, work: Work, on_end: Callable[[], None] = lambda: None) -> None:
        self.name = name
        self._work = work
        self._on_end = on_end
        self._stopping = False
        self._failures = 0
        self._logged: set[tuple[bool, str]] = set()
        """Of each line since the task was well: whether it was failing, and the class of the error."""
        self._loop = asyncio.get_running_loop()
        self._start()

    @property
    def failing(self) -> bool:
        """Whether the task failed FAILURES times in a row, and has not run for LASTING_S since."""
        return self._failures >= FAILURES

    def _start(self) -> None:
        self._started = self._loop.time()
        self._task: asyncio.Task[None] = self._loop.create_task(self._work(), name=self.name)
        self._task.add_done_callback(self._ended)
        if self.failing:
            self._loop.call_later(LASTING_S, self._recovered, self._task)

    def _ended(self, task: asyncio.Task[None]) -> None:
        """Log the end of the task, unless it is being stopped, and start it again."""
        error = None if task.cancelled() else task.exception()
        if self._stopping:
            return
        ran_s = self._loop.time() - self._started
        self._failures = 1 if ran_s >= LASTING_S else self._failures + 1
        if ran_s >= FORGET_S:
            self._logged.clear()
        cause = "cancelled" if task.cancelled() else reason(error) if error else "returned"
        line = (self.failing, type(error).__name__)
        if line not in self._logged:
            self._logged.add(line)
            if self.failing:
                log.error("task.failing", task=self.name, error=cause, exc_info=error)
            else:
                log.error("task.ended", task=self.name, error=cause, exc_info=error)
        self._on_end()
        self._loop.call_later(RESTART_S, self._restart)

    def _recovered(self, task: asyncio.Task[None]) -> None:
        if task is self._task and not task.done():
            self._failures = 0
            self._logged.clear()
            log.warning("task.recovered", task=self.name)

    def _restart(self) -> None:
        if not self._stopping:
            self._start()

    async def stop(self, wait_s: float = 0.0) -> None:
        """Wait for the end of the task, at most `wait_s` seconds, then cancel it."""
        self._stopping = True
        if wait_s:
            await asyncio.wait({self._task}, timeout=wait_s)
        self._task.cancel()
        await asyncio.wait({self._task})


class LastingProblem(Incident):
    """Logs a problem when it begins, once for each further class of error, and when it is over.

    `failed` and `recovered` are the names of the log events.
    """

    def __init__(self, log: BoundLogger, failed: str, recovered: str) -> None:
        super().__init__(QUIET_S)
        self._log = log
        self._failed = failed
        self._recovered = recovered

    def note_failure(self, error: Exception, **fields: object) -> None:
        """Log the first failure of a class, with a traceback unless it is `Unavailable`."""
        cause = error.__cause__ or error
        if self.fail(type(cause).__name__):
            expected = isinstance(error, Unavailable)
            self._log.log(
                logging.WARNING if expected else logging.ERROR,
                self._failed,
                **fields,
                error=reason(cause),
                exc_info=None if expected else error,
            )

    def note_success(self) -> None:
        """Log the end of the problem, if there was one and the last failure is QUIET_S ago."""
        if self.lasts and (failures := self.succeed()):
            self._log.warning(self._recovered, failures=failures)
