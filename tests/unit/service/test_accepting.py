"""Accepting connections that arrive together."""

import asyncio
import socket
from collections.abc import Iterator
from contextlib import ExitStack

import pytest

from service.server.accepting import SharingLoop, bind

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
