"""Accepting connections: the worker processes share the listening sockets.

The worker with the fewest connections accepts the next one. Without that rule, the event loop that
wakes up first accepts every waiting connection: one of two workers was seen with 32 of 32 keep-alive
connections while the other idled. Turns by time are no better on a busy machine, because a worker that
is not scheduled in its turn misses it.

A listening socket for each worker (SO_REUSEPORT) would be simpler. With 2 and 4 workers and 32 and 128
keep-alive connections, neither was faster: rates and latencies differed by as much between two runs.
But the kernel spreads by a hash of the addresses, also to a worker that hangs. With one of two workers
stopped, 11 of 100 new connections failed, and none with shared sockets.
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

from service.logs import first_line, get_logger
from service.settings import shared_folder

RECHECK_S: Final = 0.001
"""Time between two checks whether the worker with fewer connections has accepted the waiting one."""
ACCEPTED_AT_ONCE: Final = 64
"""Connections that are accepted before requests are read again. One at once was too few: while a process is
busy, a pass of its event loop takes some 30 ms, and 3,000 callers that connected at once waited for 8 s."""
UNEVEN: Final = 8
"""A worker accepts connections until it has an eighth more than the one with the fewest: as many as there
are, not one by turns with a worker that is busy."""
HUNG_S: Final = 0.2
"""Time after which a worker with fewer connections that has not accepted one counts as hung or dead."""
FAILED_ACCEPT_PAUSE_S: Final = 1.0
"""Pause after an accept that failed, most likely because too many files are open."""
SAME_FAILURE_S: Final = 60.0
"""Time in which failed accepts are logged once. Between two failures, one accept can succeed for each
connection that ends."""
PLACES: Final = 256
"""Places for the counts of workers: more than LINKS_WORKERS allows, because uvicorn starts one more
worker at each SIGTTIN."""
NO_WORKER: Final = 2**32 - 1
"""The count in a place whose worker accepts no connections, or that no worker has."""

log = get_logger(__name__)


def bind(host: str, port: int) -> list[socket.socket]:
    """Return a socket bound to each address of the host.

    `::` is every address of both families, and of IPv4 alone where the kernel has no IPv6.

    Raises:
        OSError: the name is unknown, or an address is in use or not of this machine.
    """
    if host == "::" and not socket.has_dualstack_ipv6():
        host = "0.0.0.0"  # noqa: S104 - the setting says so
    found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    listeners: list[socket.socket] = []
    try:
        for family, kind, protocol, _, address in dict.fromkeys(found):
            listener = socket.socket(family, kind, protocol)
            listeners.append(listener)
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            if family == socket.AF_INET6:
                listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, address[0] != "::")
            chosen = listeners[0].getsockname()[1]  # for port 0
            listener.bind((address[0], port or chosen, *address[2:]))
    except OSError:
        for listener in listeners:
            listener.close()
        raise
    return listeners


class Counts:
    """The number of connections of each worker, in a file that all workers map into memory."""

    def __init__(self, folder: Path | None = None) -> None:
        """Lock the first place that no living worker has locked. The kernel unlocks it when the process ends.

        Args:
            folder: where `make` has made the file; None: there are no other workers.
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
        """Create the file, before the workers start."""
        (folder / "connections").write_bytes(NO_WORKER.to_bytes(4, "little") * PLACES)

    @property
    def own(self) -> int:
        """The number of this worker's connections."""
        return self._own

    def add(self, connections: int) -> None:
        """Add to the number of this worker's connections."""
        self._own += connections
        if not self._closed:
            self._counts[self._place] = self._own

    def close(self) -> None:
        """Tell the other workers that this one accepts no more."""
        self._closed = True
        self._counts[self._place] = NO_WORKER

    def fewest(self) -> int:
        """Return the smallest number of connections of any worker."""
        return min(self._counts)

    def _lock(self, place: int) -> bool:
        try:
            fcntl.lockf(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB, 1, place)
        except BlockingIOError:
            return False
        return True


class SharingLoop(uvloop.Loop):
    """uvloop whose `create_server` returns an Acceptor."""

    _counts: Counts | None = None

    async def create_server(  # type: ignore[override] # as uvicorn calls it
        self,
        protocol_factory: Callable[[], asyncio.Protocol],
        *,
        sock: socket.socket,
        backlog: int,
        **_: object,
    ) -> "Acceptor":
        """Listen on a bound socket, and accept connections until the Acceptor is closed."""
        sock.settimeout(0)
        sock.listen(backlog)
        if self._counts is None:
            self._counts = Counts(shared_folder())
        return Acceptor(self, protocol_factory, sock, self._counts)


class Acceptor:
    """Accepts connections on one listening socket: the part of asyncio's Server that uvicorn uses."""

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
        self._checked_at = self._waiting_since = loop.time()
        self._wait()

    def close(self) -> None:
        """Accept the connections in the kernel's queue, then no more.

        When the socket is closed, the kernel resets the connections that are still in its queue.
        """
        self._closed = True
        self._loop.remove_reader(self._listener)
        while self._accept():
            pass
        self._counts.close()

    async def wait_closed(self) -> None:
        """Return at once: uvicorn itself waits for the connections that were accepted."""

    def _wait(self) -> None:
        if not self._closed:
            self._counts.add(0)
            self._loop.add_reader(self._listener, self._on_waiting)

    def _pause(self, seconds: float) -> None:
        self._loop.remove_reader(self._listener)
        self._loop.call_later(seconds, self._wait)

    def _on_waiting(self) -> None:
        """Accept the waiting connections, or leave them to a worker that has fewer."""
        for _ in range(ACCEPTED_AT_ONCE):
            if self._another_is_due():
                self._pause(RECHECK_S)
                return
            if not self._accept():
                return

    def _accept(self) -> bool:
        """Accept one connection; return whether one was waiting."""
        try:
            connection, _ = self._listener.accept()
        except (BlockingIOError, ConnectionAbortedError):
            return False  # another worker was faster, or the caller has closed the connection
        except OSError as error:
            if self._loop.time() - self._failed_at > SAME_FAILURE_S:
                log.warning("http.accept_failed", error=first_line(error))
            self._failed_at = self._loop.time()
            self._pause(FAILED_ACCEPT_PAUSE_S)
            return False
        self._counts.add(1)
        opening = self._loop.create_task(self._open(connection))
        self._opening.add(opening)
        opening.add_done_callback(self._opening.discard)
        return True

    def _another_is_due(self) -> bool:
        """Whether another worker has fewer connections and does not count as hung."""
        now, own, fewest = self._loop.time(), self._counts.own, self._counts.fewest()
        is_due = fewest + own // UNEVEN < own
        alive = fewest != self._fewest  # the other worker's count has changed, so it is alive
        if not is_due or alive or now - self._checked_at > HUNG_S:
            self._waiting_since = now
        self._fewest, self._checked_at = fewest, now
        return is_due and now - self._waiting_since < HUNG_S

    async def _open(self, connection: socket.socket) -> None:
        connection.settimeout(0)
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        try:
            await self._loop.connect_accepted_socket(self._make_protocol, connection)
        except BaseException:
            self._counts.add(-1)
            raise

    def _make_protocol(self) -> asyncio.Protocol:
        """Return a protocol that also lowers the count when its connection ends."""
        protocol = self._protocol_factory()
        connection_lost = protocol.connection_lost

        def forget(error: Exception | None) -> None:
            self._counts.add(-1)
            connection_lost(error)

        protocol.connection_lost = forget  # type: ignore[method-assign,assignment] # of this object only
        return protocol
