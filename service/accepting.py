"""How several worker processes share one listening socket: one connection each, in turn.

An event loop takes every connection that waits, so one of two workers was seen with 32 of 32, for
as long as the callers kept them open, while the other idled.
"""

import asyncio
import logging
import socket
from collections.abc import Callable
from typing import Any, Final

import uvloop

STEP_BACK_S: Final = 0.001
"""After a connection: long enough for a worker with nothing to do to wake up and be first."""
FAILED_STEP_BACK_S: Final = 1.0
"""After an accept that failed: too many files are open, most likely."""

log = logging.getLogger(__name__)


class TurnTakingLoop(uvloop.Loop):
    """uvloop, but for how it accepts on the socket that uvicorn's workers share."""

    async def create_server(  # type: ignore[override] # just as uvicorn calls it
        self,
        protocol_factory: Callable[[], asyncio.Protocol],
        *,
        sock: socket.socket,
        backlog: int,
        **_: object,
    ) -> "Turns":
        """Listen on a bound socket, and accept until the answer is closed."""
        sock.settimeout(0)
        sock.listen(backlog)
        return Turns(self, protocol_factory, sock)


class Turns:
    """A server, as far as uvicorn needs one."""

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        protocol_factory: Callable[[], asyncio.Protocol],
        listener: socket.socket,
    ) -> None:
        self._loop = loop
        self._protocol_factory = protocol_factory
        self._listener = listener
        self._closed = False
        self._opening: set[asyncio.Task[Any]] = set()
        self._wait()

    def close(self) -> None:
        """Accept no more."""
        self._closed = True
        self._loop.remove_reader(self._listener)

    async def wait_closed(self) -> None:
        """Return at once: uvicorn knows the connections that were accepted."""

    def _wait(self) -> None:
        if not self._closed:
            self._loop.add_reader(self._listener, self._accept)

    def _step_back(self, seconds: float) -> None:
        self._loop.remove_reader(self._listener)
        self._loop.call_later(seconds, self._wait)

    def _accept(self) -> None:
        try:
            connection, _ = self._listener.accept()
        except (BlockingIOError, ConnectionAbortedError):
            return  # another worker was first, or the caller has gone
        except OSError as error:
            log.warning("http.accept_failed", extra={"error": str(error)})
            self._step_back(FAILED_STEP_BACK_S)
            return
        self._step_back(STEP_BACK_S)
        opening = self._loop.create_task(self._open(connection))
        self._opening.add(opening)
        opening.add_done_callback(self._opening.discard)

    async def _open(self, connection: socket.socket) -> None:
        connection.settimeout(0)
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        await self._loop.connect_accepted_socket(self._protocol_factory, connection)
