"""Accepting connections that arrive together."""

import asyncio
import socket
import time
from collections.abc import Iterator
from contextlib import ExitStack

import pytest

from service.server.accepting import HUNG_S, Counts, SharingLoop, bind

CONNECTIONS = 100


@pytest.fixture
def listener() -> Iterator[socket.socket]:
    """Yield a listening socket with connections that nobody has accepted."""
    (listener,) = bind("127.0.0.1", 0)
    listener.listen(CONNECTIONS)
    with listener, ExitStack() as callers:
        for _ in range(CONNECTIONS):
            callers.enter_context(socket.create_connection(listener.getsockname()))
        yield listener


class Connection(asyncio.Protocol):
    """A connection that was accepted."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Keep what closes it."""
        self.close = transport.close


async def passes_until_accepted(listener: socket.socket) -> int:
    """Serve; return the passes of the event loop until each connection has its protocol."""
    made: list[Connection] = []
    passes = 0

    def protocol() -> Connection:
        made.append(Connection())
        return made[-1]

    loop = asyncio.get_running_loop()
    server = await loop.create_server(protocol, sock=listener, backlog=CONNECTIONS)
    async with asyncio.timeout(60):
        while len(made) < CONNECTIONS:
            passes += 1
            await asyncio.sleep(0)
        await asyncio.sleep(0)
    server.close()
    for connection in made:
        connection.close()
    await asyncio.sleep(0)
    return passes


def test_connections_that_arrive_together_are_accepted_together(listener: socket.socket) -> None:
    """A pass of the event loop, which is long while the process is busy, accepts many connections."""
    with asyncio.Runner(loop_factory=SharingLoop) as runner:
        assert runner.run(passes_until_accepted(listener)) < CONNECTIONS / 2


class HungNeighbour(Counts):
    """The counts of two workers, of which the other one has no connection and accepts none."""

    def fewest(self) -> int:
        """Return the other worker's number."""
        return 0


class StoppedClock(SharingLoop):
    """The event loop of a worker beside a hung one; its time is what a test says."""

    now = 0.0

    def __init__(self) -> None:
        super().__init__()
        self._counts = HungNeighbour()

    def time(self) -> float:
        """Return the time of the test."""
        return self.now


async def accepted_beside_a_hung_worker(listener: socket.socket, loop: StoppedClock) -> int:
    """Serve; let time pass until the other worker counts as hung, then stop the clock.

    Return the number of connections that are accepted.
    """
    made: list[Connection] = []

    def protocol() -> Connection:
        made.append(Connection())
        return made[-1]

    server = await loop.create_server(protocol, sock=listener, backlog=CONNECTIONS)
    end = time.monotonic() + 60
    while len(made) < CONNECTIONS and time.monotonic() < end:
        if len(made) < 2:
            loop.now += HUNG_S / 20
        await asyncio.sleep(0.005)
    accepted = len(made)
    server.close()  # accepts the others
    await asyncio.sleep(0.005)
    for connection in made:
        connection.close()
    await asyncio.sleep(0)
    return accepted


def test_a_hung_worker_is_waited_for_once(listener: socket.socket) -> None:
    """Once a worker without connections counts as hung, no further connection waits for it."""
    loop = StoppedClock()
    with asyncio.Runner(loop_factory=lambda: loop) as runner:
        assert runner.run(accepted_beside_a_hung_worker(listener, loop)) == CONNECTIONS
