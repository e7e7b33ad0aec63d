"""How a process stops: /readyz fails, the process drains, then uvicorn finishes the requests in flight.

A load balancer sends new connections until it has seen that /readyz fails. So the first signal only
begins the drain: the process still accepts connections, and each answer is the last of its connection.
At the end of the drain, uvicorn's own signal handler is called. It stops accepting, and waits for the
requests in flight. A second signal ends the drain at once, a third one ends the process.
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
"""Sent by the supervisor to its workers to end the drain."""
ORPHAN_CHECK_S: Final = 1.0
"""Time between two checks whether the supervisor is alive. A worker without one stops by itself, because
no one would pass a signal on to it."""

log = get_logger(__name__)


def stop_signals() -> list[signal.Signals]:
    """Return the signals that stop the program.

    SIGHUP is not one of them if it is ignored, as under `nohup`. SIGINT always is one, although a
    script's shell lets the programs that it starts with `&` ignore it.
    """
    hangup = [] if signal.getsignal(signal.SIGHUP) == signal.SIG_IGN else [signal.SIGHUP]
    return [signal.SIGTERM, signal.SIGINT, *hangup]


class Connection(Protocol):
    """A caller's connection."""

    def close_after_answer(self) -> None:
        """Send `Connection: close` with the answer to the request in flight."""


class Stopping:
    """Whether this process is stopping, and whether the drain has ended.

    The supervisor of a worker process passes signals on. The worker may receive the same signal from
    its process group as well, so only FINISH_SIGNAL ends its drain early.
    """

    def __init__(self, drain_s: float = 0) -> None:
        self.begun = False
        """Whether the drain has begun: /readyz fails, and connections are still accepted."""
        self.drained = False
        """Whether the drain has ended: no connections are accepted."""
        self.connections: Collection[Connection] = ()
        """uvicorn's set of the open connections."""
        self._drain_s = drain_s
        self._supervisor = parent_process()
        self._exit: Callable[[int, Any], Any] = lambda *_: None

    @asynccontextmanager
    async def on_signals(self) -> AsyncIterator[None]:
        """Replace the signal handlers that uvicorn has set just before; restore them at the end."""
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
        """Let uvicorn finish the requests in flight; the second time, let it drop them."""
        number = signal.SIGINT if self.drained else signal.SIGTERM
        self.begun = self.drained = True
        self._exit(number, None)

    def _stop_when_orphaned(self, supervisor: int | None) -> None:
        if os.getppid() == supervisor:
            self._loop.call_later(ORPHAN_CHECK_S, self._stop_when_orphaned, supervisor)
        elif not self.begun:
            log.error("service.supervisor_gone")
            self._begin()
