"""A TCP proxy with the faults of a network: delay, resets, silence, forgotten connections."""

import asyncio
import ssl
import time
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Literal, NamedTuple, Self

from tests.support.streams import abort

_CHUNK = 1 << 16

Way = Literal["request", "response"]


class Tls(NamedTuple):
    """A proxy's TLS contexts: one as a server to its clients, one as a client to its server."""

    server: ssl.SSLContext
    client: ssl.SSLContext


@dataclass(eq=False)
class Connection:
    """A connection through the proxy; `port` is the client port that the server sees."""

    port: int
    made_at: float = field(default_factory=time.monotonic)
    used_at: float = field(default_factory=time.monotonic)
    forgotten: bool = False


class FaultyProxy:
    """A proxy to the server `target`, which may be changed for new connections.

    - `delay_s` delays each chunk of data.
    - `silence` passes nothing on and keeps connections open, as a network that drops packets.
    - `cut` resets all connections.
    - `forget_after_s` and `forget` do what a NAT or a load balancer does: a forgotten connection stays
      open and passes nothing on any more. It was idle for longer than `forget_after_s`, or open when
      `forget` was called.

    `forgotten` counts the forgotten connections on which something was sent afterwards, `made` counts
    all connections. With `tls` the proxy decrypts the data, so that a subclass can read messages.
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
        """Start listening."""
        server = self._tls.server if self._tls else None
        self._server = await asyncio.start_server(
            self._serve, self._own_host, self._own_port, ssl=server
        )
        return self

    async def __aexit__(self, *_: object) -> None:
        """Stop listening, and reset all connections."""
        self._server.close()
        self.cut()
        await asyncio.gather(*self._connections, return_exceptions=True)

    @property
    def address(self) -> str:
        """Host and port on which the proxy listens."""
        return f"{self._own_host}:{self.port}"

    @property
    def port(self) -> int:
        """The port on which the proxy listens."""
        port: int = self._server.sockets[0].getsockname()[1]
        return port

    def silence(self, silent: bool = True) -> None:  # noqa: FBT001, FBT002 - on or off
        """Pass nothing on; or, if not `silent`, everything again."""
        if silent:
            self._open.clear()
        else:
            self._open.set()

    def forget(self, *ports: int) -> None:
        """Forget the connections that are open now; with ports, only those with these client ports."""
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
        await abort(writer)
        del self._connections[task]

    async def _relay(
        self,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        up_reader: asyncio.StreamReader,
        up_writer: asyncio.StreamWriter,
    ) -> None:
        """Pass data on in both directions until either side closes."""
        connection = Connection(up_writer.get_extra_info("sockname")[1])
        ways = [
            asyncio.create_task(self._pump("request", reader, up_writer, connection)),
            asyncio.create_task(self._pump("response", up_reader, writer, connection)),
        ]
        try:
            await asyncio.wait(ways, return_when=asyncio.FIRST_COMPLETED)
        finally:
            self._ended(connection)
            up_writer.transport.abort()  # before the first await, which `cut` may cancel
            for way in ways:
                way.cancel()
            await asyncio.gather(*ways, return_exceptions=True)
            await abort(up_writer)

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
        """Whether the connection is forgotten."""
        now = time.monotonic()
        idle_s, connection.used_at = now - connection.used_at, now
        too_idle = self.forget_after_s is not None and idle_s > self.forget_after_s
        chosen = connection.port in self._forgotten_ports
        if too_idle or chosen or connection.made_at < self._forgot_at:
            self.forgotten += not connection.forgotten
            connection.forgotten = True
        return connection.forgotten

    def _ended(self, connection: Connection) -> None:
        """Delete a subclass's state of a connection."""

    async def _read(self, _: Way, reader: asyncio.StreamReader, __: Connection) -> bytes:
        """Return the data to pass on next; empty at the end of the stream."""
        return await reader.read(_CHUNK)
