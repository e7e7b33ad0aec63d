"""A proxy before Postgres that breaks a connection before or after the server executes a COMMIT."""

import asyncio
import re
from contextlib import suppress
from typing import Literal, Self
from urllib.parse import urlsplit

from tests.support.streams import close

COMMIT = re.compile(rb"Q.{4}COMMIT(?:;\nBEGIN|\x00)", re.DOTALL).match
"""The COMMIT of a write: a simple query, which may also begin the next transaction.

The deletion of expired replies, which starts with the service, sends asyncpg's own `COMMIT;`. On a busy
machine that may arrive later than the first call.
"""

LONE_LINK = re.compile(rb"P.{4}([^\0]*)\0[^\0]*FROM add_link\(", re.DOTALL).search
"""The statement of a lone link being prepared: its name. It is a transaction of its own."""

COMMITTED = (b"C", b"2")
"""What the answer to a COMMIT begins with (CommandComplete), and the answer to a lone link (BindComplete)."""

Fault = Literal["command lost", "answer lost", "command late"]


class CommitProxy:
    """A TCP proxy to one server. After `break_next` it closes the client's connection at the next COMMIT.

    The statement of a lone link counts as one, since it is a whole transaction.

    - command lost: the COMMIT does not reach the server, whose connection is closed too.
    - answer lost: the server executes the COMMIT.
    - command late: the COMMIT reaches the server when `let_go` is set. Until then the session is idle
      in transaction.

    While `passes_ends_on` is cleared, a client gets the server's last message, but its connection stays
    open.
    """

    def __init__(self, dsn: str) -> None:
        self._parts = urlsplit(dsn)
        self._armed: Fault | None = None
        self.broken = 0
        self.carried_out = 0
        """The number of broken connections whose COMMIT the server executed."""
        self.passes_ends_on = asyncio.Event()
        self.passes_ends_on.set()
        self.ended = 0
        """The number of sessions that the server has ended."""
        self.let_go = asyncio.Event()
        self._tasks: set[asyncio.Task[None]] = set()

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        return self

    async def __aexit__(self, *_: object) -> None:
        self._server.close()
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    @property
    def dsn(self) -> str:
        """The server's URL through this proxy."""
        credentials, at, _ = self._parts.netloc.rpartition("@")
        port = self._server.sockets[0].getsockname()[1]
        netloc = f"{credentials}{at}127.0.0.1:{port}"
        return self._parts._replace(netloc=netloc, query="sslmode=disable").geturl()

    def refuse(self) -> None:
        """Accept no more connections; those that are open stay."""
        self._server.close()

    def break_next(self, fault: Fault | None) -> None:
        """Break the connection at the next COMMIT; None: do not."""
        self._armed = fault

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        try:
            with suppress(OSError):  # the server is down, or a side has ended the connection
                await self._pass_on(reader, writer)
        finally:
            await close(writer)

    async def _pass_on(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        host, port = self._parts.hostname, self._parts.port or 5432
        up_reader, up_writer = await asyncio.open_connection(host, port)
        answers = asyncio.create_task(self._answer(up_reader, writer))
        try:
            await self._relay(reader, writer, up_reader, up_writer, answers)
        finally:
            answers.cancel()
            await close(up_writer)

    async def _answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Pass on the server's messages."""
        with suppress(ConnectionError):
            while data := await reader.read(65536):
                writer.write(data)
        self.ended += 1
        await self.passes_ends_on.wait()
        writer.close()

    async def _relay(
        self,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        up_reader: asyncio.StreamReader,
        up_writer: asyncio.StreamWriter,
        answers: asyncio.Task[None],
    ) -> None:
        """Pass on the client's messages, up to the COMMIT at which the connection breaks."""
        execution: bytes | None = None
        while data := await reader.read(65536):
            if prepared := LONE_LINK(data):
                execution = (
                    b"\0" + prepared[1] + b"\0"
                )  # an unnamed portal, and the statement's name
            is_lone = execution is not None and data.startswith(b"B") and execution in data[:80]
            if self._armed is None or not (COMMIT(data) or is_lone):
                up_writer.write(data)
                continue
            fault, self._armed = self._armed, None
            self.broken += 1
            answers.cancel()
            await asyncio.gather(answers, return_exceptions=True)  # two cannot read at once
            if fault == "command late":
                writer.close()
                await self.let_go.wait()
            if fault != "command lost":
                up_writer.write(data)
                self.carried_out += (await up_reader.read(65536)).startswith(COMMITTED)
            return
