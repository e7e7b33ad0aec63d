"""One run of a command that publishes: its progress, and its end by Ctrl-C between two pages."""

import asyncio
import signal
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import Any

import asyncpg

from outbox_worker.operator import terminal
from outbox_worker.postgres.registration import RefusedError
from outbox_worker.postgres.task_progress import (
    NOT_PERMITTED,
    InterruptedByOperator,
    Kind,
    Recorder,
    Task,
    newest,
)

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
"""Ctrl-C, the end of a job or a container, and the end of the terminal's connection."""


class Run:
    """The progress of a command, and the signals that interrupt it.

    The first signal waits for the end of the page in flight, so that it is known which records are in the
    topic. A second signal does not wait.
    """

    def __init__(self, recorder: Recorder, step: terminal.Step) -> None:
        self.recorder = recorder
        self.in_flight = False
        """Whether a page is being published; also after an error, when its records may be in the topic."""
        self._step = step
        self._task = asyncio.current_task()
        self._interrupted_by: signal.Signals | None = None

    @contextmanager
    def publishing(self, events: int, position: dict[str, Any] | None = None) -> Iterator[None]:
        """Publish a page in this context. After it, its events and the position count as done."""
        self.in_flight = True
        yield
        self.in_flight = False
        self.recorder.events += events
        self.recorder.position = position
        self._step(events)

    def check(self) -> None:
        """Raise InterruptedByOperator if a signal has come while a page was being published."""
        if self._interrupted_by is not None:
            raise InterruptedByOperator(self._interrupted_by)

    @contextmanager
    def interruptible(self) -> Iterator[None]:
        """Handle the signals in this context; it raises InterruptedByOperator."""
        loop = asyncio.get_running_loop()
        # nohup ignores SIGHUP, which then stays so.
        handled = [each for each in SIGNALS if signal.getsignal(each) != signal.SIG_IGN]
        for number in handled:
            loop.add_signal_handler(number, self._interrupt, number)
        try:
            yield
        except asyncio.CancelledError:
            if self._interrupted_by is None:
                raise
            raise InterruptedByOperator(self._interrupted_by) from None
        finally:
            for number in handled:
                loop.remove_signal_handler(number)

    def _interrupt(self, number: signal.Signals) -> None:
        waits = self.in_flight and self._interrupted_by is None
        self._interrupted_by = number
        if self._task is not None and not waits:
            self._task.cancel()


@asynccontextmanager
async def running(recorder: Recorder, title: str, *, shown: bool) -> AsyncIterator[Run]:
    """Show and record the progress of a run while the context lasts."""
    bar = terminal.progress_bar(title, recorder.total, done=recorder.events, shown=shown)
    async with recorder:
        with bar as step:
            run = Run(recorder, step)
            with run.interruptible():
                yield run


async def interrupted(
    connection: asyncpg.Connection, kind: Kind, parameters: dict[str, Any]
) -> Task | None:
    """Return the newest run with these parameters; None if it was finished, or if none is recorded."""
    try:
        task = await newest(connection, kind, parameters)
    except NOT_PERMITTED:
        return None
    return None if task is None or task.finished_at else task


async def resumable(connection: asyncpg.Connection, kind: Kind, parameters: dict[str, Any]) -> Task:
    """Return the newest run with these parameters.

    Raises:
        RefusedError: no run is recorded, it was finished, or it is unknown where it goes on.
    """
    task = await interrupted(connection, kind, parameters)
    if task is None:
        message = f"no interrupted {kind} with these options is recorded: leave out --resume"
        raise RefusedError(message)
    if task.position is None:
        message = (
            f"the last {kind} with these options ended while a page was being published, so it is "
            "unknown where it would go on: leave out --resume, and it begins again"
        )
        raise RefusedError(message)
    return task
