"""How a process stops: it says that it is not ready, serves for a while longer, then finishes.

A load balancer sends new connections until it has seen that /readyz fails. So the first signal only
begins the drain: the process goes on accepting, and each answer is the last of its connection. When
the drain has ended, uvicorn's own handler of the signal is called: it stops accepting and waits for
the requests in flight. A further signal ends the drain at once, one after that ends the process.
"""

import asyncio
import os
import signal
from collections.abc import AsyncIterator, Callable, Collection
from contextlib import asynccontextmanager
from multiprocessing import parent_process
from typing import Any, Final, Protocol

from service.logs import get_logger

FINISH_SIGNAL: Final = signal.SIGUSR2
"""From the supervisor to its workers: end the drain now."""
ORPHAN_CHECK_S: Final = 1.0
"""Between two looks whether the supervisor is still there: without it nobody would stop the worker."""

log = get_logger(__name__)


def stop_signals() -> list[signal.Signals]:
    """Return the signals that stop the program. SIGHUP is not among them where `nohup` ignores it.

    SIGINT always is, although a script's shell ignores it in what it starts with `&`.
    """
    hangup = [] if signal.getsignal(signal.SIGHUP) == signal.SIG_IGN else [signal.SIGHUP]
    return [signal.SIGTERM, signal.SIGINT, *hangup]


class Connection(Protocol):
    """A caller's connection."""

    def close_after_answer(self) -> None:
        """Announce in the answer to the request in flight that the connection will be closed."""


class Stopping:
    """Whether this process is stopping, and how far it has come.

    A worker process has a supervisor, the process that started it, which passes signals on. It may get
    the same signal from its process group too, so only FINISH_SIGNAL cuts its drain short.
    """

    def __init__(self, drain_s: float = 0) -> None:
        self.begun = False
        """The process is not ready; it still accepts connections."""
        self.drained = False
        """No connection is accepted any more."""
        self.connections: Collection[Connection] = ()
        """The open ones; uvicorn's own set."""
        self._drain_s = drain_s
        self._supervisor = parent_process()
        self._exit: Callable[[int, Any], Any] = lambda *_: None

    @asynccontextmanager
    async def on_signals(self) -> AsyncIterator[None]:
        """Take the signals over from uvicorn, which has set its handlers just before."""
        self._loop = asyncio.get_running_loop()
        uvicorn_exit = signal.getsignal(signal.SIGTERM)
        if callable(uvicorn_exit):
            self._exit = uvicorn_exit
        before = {
            number: signal.signal(number, self._on_signal)
            for number in (*stop_signals(), FINISH_SIGNAL)
        }
        if self._supervisor is not None:
            self._stop_when_orphaned(self._supervisor.pid)
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def _on_signal(self, number: int, _: object) -> None:
        self._loop.call_soon_threadsafe(self._stop, number)

    def _stop(self, number: int) -> None:
        if number == FINISH_SIGNAL or (self.begun and self._supervisor is None):
            self._finish()
        elif not self.begun:
            self._begin()

    def _begin(self) -> None:
        self.begun = True
        log.info("service.draining", seconds=self._drain_s)
        for connection in self.connections:
            connection.close_after_answer()
        self._loop.call_later(self._drain_s, self._end_drain)

    def _end_drain(self) -> None:
        if not self.drained:
            self._finish()

    def _finish(self) -> None:
        """Let uvicorn finish; asked again, without waiting for the requests in flight."""
        number = signal.SIGINT if self.drained else signal.SIGTERM
        self.begun = self.drained = True
        self._exit(number, None)

    def _stop_when_orphaned(self, supervisor: int | None) -> None:
        if os.getppid() == supervisor:
            self._loop.call_later(ORPHAN_CHECK_S, self._stop_when_orphaned, supervisor)
        elif not self.begun:
            log.error("service.supervisor_gone")
            self._begin()
