"""A TCP proxy with the faults of a network: delay, resets, silence, connections that are forgotten."""

import asyncio
import ssl
import time
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Literal, NamedTuple, Self

_CHUNK = 1 << 16

Way = Literal["request", "response"]


class Tls(NamedTuple):
    """How a proxy speaks TLS: to the client as a server, and to the server as a client."""

    server: ssl.SSLContext
    client: ssl.SSLContext


@dataclass(eq=False)
class Connection:
    """A connection through the proxy; the port is that of the proxy's own end, as the server sees it."""

    port: int
    made_at: float = field(default_factory=time.monotonic)
    used_at: float = field(default_factory=time.monotonic)
    forgotten: bool = False


class FaultyProxy:
    """A proxy on a port of its own, to a server that may change.

    `delay_s` holds everything up. `silence` lets nothing through and keeps connections open, as a
    network does that drops packets. `cut` resets every connection. `forget_after_s` is what a NAT
    or a load balancer does: a connection that was idle for longer stays open and passes nothing on
    any more, and so does each connection that is open when `forget` is called. `forgotten` counts
    the forgotten connections on which something was sent afterwards, `made` all connections.
    With `tls` the proxy ends the client's TLS and begins its own, so that a subclass sees messages.
    """

    def __init__(
        self,
        host: str,
        port: int,
        own_port: int = 0,
        tls: Tls | None = None,
        *,
        own_host: str = "127.0.0.1",
    ) -> None:
        self.target = (host, port)
        self._own_host = own_host
        self._tls = tls
        self.delay_s = 0.0
        self.forget_after_s: float | None = None
        self.forgotten = 0
        self.made = 0
        self._forgot_at = 0.0
        self._forgotten_ports: frozenset[int] = frozenset()
        self._own_port = own_port
        self._open = asyncio.Event()
        self._open.set()
        self._connections: dict[asyncio.Task[None], asyncio.StreamWriter] = {}

    async def __aenter__(self) -> Self:
        """Listen."""
        server = self._tls.server if self._tls else None
        self._server = await asyncio.start_server(
            self._serve, self._own_host, self._own_port, ssl=server
        )
        return self

    async def __aexit__(self, *_: object) -> None:
        """Reset what is left and stop listening."""
        self._server.close()
        self.cut()
        await asyncio.gather(*self._connections, return_exceptions=True)

    @property
    def port(self) -> int:
        """The port that it listens on."""
        port: int = self._server.sockets[0].getsockname()[1]
        return port

    def silence(self, silent: bool = True) -> None:  # noqa: FBT001, FBT002 - on or off
        """Let nothing through, or everything again."""
        if silent:
            self._open.clear()
        else:
            self._open.set()

    def forget(self, *ports: int) -> None:
        """Pass nothing on any more on the connections that are open now.

        With ports, only on the connections that the server sees coming from them.
        """
        if ports:
            self._forgotten_ports |= frozenset(ports)
        else:
            self._forgot_at = time.monotonic()

    def cut(self) -> None:
        """Reset every connection."""
        for task, writer in list(self._connections.items()):
            writer.transport.abort()
            task.cancel()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task
        self._connections[task] = writer
        with suppress(OSError, EOFError, asyncio.CancelledError):
            await self._open.wait()
            client = self._tls.client if self._tls else None
            up_reader, up_writer = await asyncio.open_connection(*self.target, ssl=client)
            self.made += 1
            await self._relay(reader, writer, up_reader, up_writer)
        await _abort(writer)
        del self._connections[task]

    async def _relay(
        self,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        up_reader: asyncio.StreamReader,
        up_writer: asyncio.StreamWriter,
    ) -> None:
        """Pass on both ways, until either side ends."""
        connection = Connection(up_writer.get_extra_info("sockname")[1])
        ways = [
            asyncio.create_task(self._pump("request", reader, up_writer, connection)),
            asyncio.create_task(self._pump("response", up_reader, writer, connection)),
        ]
        try:
            await asyncio.wait(ways, return_when=asyncio.FIRST_COMPLETED)
        finally:
            self._ended(connection)
            up_writer.transport.abort()  # before the first await: `cut` may cancel this one too
            for way in ways:
                way.cancel()
            await asyncio.gather(*ways, return_exceptions=True)
            await _abort(up_writer)

    async def _pump(
        self,
        way: Way,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        connection: Connection,
    ) -> None:
        while True:
            data = await self._read(way, reader, connection)
            if not data:
                return
            if self.delay_s:
                await asyncio.sleep(self.delay_s)
            await self._open.wait()
            if not self._forgets(connection):
                writer.write(data)
                await writer.drain()

    def _forgets(self, connection: Connection) -> bool:
        """Whether the connection is one that passes nothing on."""
        now = time.monotonic()
        idle_s, connection.used_at = now - connection.used_at, now
        too_idle = self.forget_after_s is not None and idle_s > self.forget_after_s
        chosen = connection.port in self._forgotten_ports
        if too_idle or chosen or connection.made_at < self._forgot_at:
            self.forgotten += not connection.forgotten
            connection.forgotten = True
        return connection.forgotten

    def _ended(self, connection: Connection) -> None:
        """Forget what a subclass knows of a connection."""

    async def _read(self, _: Way, reader: asyncio.StreamReader, __: Connection) -> bytes:
        """Return what is passed on next; nothing: the end of the stream."""
        return await reader.read(_CHUNK)


async def _abort(writer: asyncio.StreamWriter) -> None:
    """Reset a connection; return when its transport is closed."""
    writer.transport.abort()
    with suppress(OSError):
        await writer.wait_closed()
