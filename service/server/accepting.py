"""Accepting connections; several worker processes share the listening sockets.

The worker with the fewest connections accepts the next one. An event loop takes every connection
that waits, so one of two workers was seen with 32 of 32, for as long as the callers kept them open,
while the other idled. Taking turns by time alone is no better on a busy machine: a worker that is
not scheduled in its turn misses it.
"""

import asyncio
import fcntl
import math
import mmap
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Final

import uvloop

from service.logs import get_logger
from service.settings import shared_folder

LOOK_AGAIN_S: Final = 0.001
"""While another worker has fewer connections, and has not taken the one that waits."""
PATIENCE_S: Final = 0.2
"""For another worker that takes none: it hangs, or has died and is being replaced."""
FAILED_STEP_BACK_S: Final = 1.0
"""After an accept that failed: too many files are open, most likely."""
SAME_FAILURE_S: Final = 60.0
"""A failed accept is logged unless an earlier one is younger: refused callers free a file now and then."""
PLACES: Final = 256
"""For workers: more than can be asked for, since uvicorn starts another at SIGTTIN."""
NOBODY: Final = 2**32 - 1

log = get_logger(__name__)


def bind(host: str, port: int) -> list[socket.socket]:
    """Return a socket bound to each address of the host; `::` is every address of both families.

    A kernel without IPv6 has no `::`: there it is every address of IPv4.

    Raises:
        OSError: the name is unknown, or an address is taken or not this machine's.
    """
    if host == "::" and not socket.has_dualstack_ipv6():
        host = "0.0.0.0"  # noqa: S104 - as the caller asked
    found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    listeners: list[socket.socket] = []
    try:
        for family, kind, protocol, _, address in dict.fromkeys(found):
            listener = socket.socket(family, kind, protocol)
            listeners.append(listener)
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            if family == socket.AF_INET6:
                listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, address[0] != "::")
            chosen = listeners[0].getsockname()[1]  # the same for all, where port 0 asks for any
            listener.bind((address[0], port or chosen, *address[2:]))
    except OSError:
        for listener in listeners:
            listener.close()
        raise
    return listeners


class Counts:
    """The number of connections that each worker has, in a file that all of them map."""

    def __init__(self, folder: Path | None = None) -> None:
        """Take the first place that no living worker has: the process holds a lock on it.

        Without a folder this process is the only one.
        """
        self._own = 0
        self._place = 0
        self._closed = False
        if folder is None:
            self._counts = memoryview(bytearray(4)).cast("I")
            return
        self._file = (folder / "connections").open("r+b")
        self._counts = memoryview(mmap.mmap(self._file.fileno(), 0)).cast("I")
        self._place = next(place for place in range(PLACES) if self._lock(place))

    @classmethod
    def make(cls, folder: Path) -> None:
        """Make the file, before the workers start."""
        (folder / "connections").write_bytes(NOBODY.to_bytes(4, "little") * PLACES)

    @property
    def own(self) -> int:
        """How many this worker has."""
        return self._own

    def add(self, connections: int) -> None:
        """Let the others know that this worker has so many more."""
        self._own += connections
        if not self._closed:
            self._counts[self._place] = self._own

    def close(self) -> None:
        """Let the others know that this worker accepts no more."""
        self._closed = True
        self._counts[self._place] = NOBODY

    def fewest(self) -> int:
        """Return how many the worker has that has fewest."""
        return min(self._counts)

    def _lock(self, place: int) -> bool:
        try:
            fcntl.lockf(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB, 1, place)
        except BlockingIOError:
            return False
        return True


class SharingLoop(uvloop.Loop):
    """uvloop, but for how it accepts on the sockets that uvicorn's workers share."""

    _counts: Counts | None = None

    async def create_server(  # type: ignore[override] # just as uvicorn calls it
        self,
        protocol_factory: Callable[[], asyncio.Protocol],
        *,
        sock: socket.socket,
        backlog: int,
        **_: object,
    ) -> "Acceptor":
        """Listen on a bound socket, and accept until the answer is closed."""
        sock.settimeout(0)
        sock.listen(backlog)
        if self._counts is None:
            self._counts = Counts(shared_folder())
        return Acceptor(self, protocol_factory, sock, self._counts)


class Acceptor:
    """A server, as far as uvicorn needs one."""

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        protocol_factory: Callable[[], asyncio.Protocol],
        listener: socket.socket,
        counts: Counts,
    ) -> None:
        self._loop = loop
        self._protocol_factory = protocol_factory
        self._listener = listener
        self._counts = counts
        self._closed = False
        self._failed_at = -math.inf
        self._opening: set[asyncio.Task[None]] = set()
        self._fewest = 0
        self._looked_at = self._waiting_since = loop.time()
        self._wait()

    def close(self) -> None:
        """Accept what waits in the kernel's queue, and no more: closing the socket would reset it."""
        self._closed = True
        self._loop.remove_reader(self._listener)
        while self._accept():
            pass
        self._counts.close()

    async def wait_closed(self) -> None:
        """Return at once: uvicorn knows the connections that were accepted."""

    def _wait(self) -> None:
        if not self._closed:
            self._counts.add(0)
            self._loop.add_reader(self._listener, self._look)

    def _step_back(self, seconds: float) -> None:
        self._loop.remove_reader(self._listener)
        self._loop.call_later(seconds, self._wait)

    def _look(self) -> None:
        """Take a connection that waits, or leave it to a worker that has fewer."""
        if self._another_is_due():
            self._step_back(LOOK_AGAIN_S)
        else:
            self._accept()

    def _accept(self) -> bool:
        """Whether a connection was waiting, and has been accepted."""
        try:
            connection, _ = self._listener.accept()
        except (BlockingIOError, ConnectionAbortedError):
            return False  # another worker was first, or the caller has gone
        except OSError as error:
            if self._loop.time() - self._failed_at > SAME_FAILURE_S:
                log.warning("http.accept_failed", error=str(error))
            self._failed_at = self._loop.time()
            self._step_back(FAILED_STEP_BACK_S)
            return False
        self._counts.add(1)
        opening = self._loop.create_task(self._open(connection))
        self._opening.add(opening)
        opening.add_done_callback(self._opening.discard)
        return True

    def _another_is_due(self) -> bool:
        """Whether a worker has fewer connections, and may still be about to take this one."""
        now, own, fewest = self._loop.time(), self._counts.own, self._counts.fewest()
        goes_on = fewest != self._fewest  # the other worker's count has changed, so it is alive
        if own <= fewest or goes_on or now - self._looked_at > PATIENCE_S:
            self._waiting_since = now
        self._fewest, self._looked_at = fewest, now
        return fewest < own and now - self._waiting_since < PATIENCE_S

    async def _open(self, connection: socket.socket) -> None:
        connection.settimeout(0)
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        try:
            await self._loop.connect_accepted_socket(self._make_protocol, connection)
        except BaseException:
            self._counts.add(-1)
            raise

    def _make_protocol(self) -> asyncio.Protocol:
        """Return one that also tells when its connection has ended: a stale count would mislead."""
        protocol = self._protocol_factory()
        connection_lost = protocol.connection_lost

        def forget(error: Exception | None) -> None:
            self._counts.add(-1)
            connection_lost(error)

        protocol.connection_lost = forget  # type: ignore[method-assign,assignment] # of this one only
        return protocol
