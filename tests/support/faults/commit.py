"""A proxy before Postgres that breaks a connection at COMMIT, before or after the server has it."""

import asyncio
import re
from contextlib import suppress
from typing import Literal, Self
from urllib.parse import urlsplit

COMMIT = re.compile(rb"Q.{4}COMMIT[;\x00]", re.DOTALL).match
"""COMMIT as asyncpg sends it: a message of the simple query protocol, which may begin the next one too."""

COMMAND_COMPLETE = b"C"

Fault = Literal["command lost", "answer lost", "command late"]


class CommitProxy:
    """A TCP proxy to one server; `break_next` arms it for one COMMIT.

    The client's connection is closed at that COMMIT, which then
    - command lost: does not reach the server, whose connection is closed too;
    - answer lost: has been carried out by the server;
    - command late: reaches the server only when `let_go` is set; the session is idle until then.

    While `passes_ends_on` is not set, a client gets the server's last message, but its connection
    stays open.
    """

    def __init__(self, dsn: str) -> None:
        self._parts = urlsplit(dsn)
        self._armed: Fault | None = None
        self.broken = 0
        self.carried_out = 0
        """How many of the COMMITs at which a connection broke the server has answered with success."""
        self.passes_ends_on = asyncio.Event()
        self.passes_ends_on.set()
        self.ended = 0
        """How many sessions the server has ended."""
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
        """The server's URL by way of this proxy."""
        credentials, at, _ = self._parts.netloc.rpartition("@")
        port = self._server.sockets[0].getsockname()[1]
        netloc = f"{credentials}{at}127.0.0.1:{port}"
        return self._parts._replace(netloc=netloc, query="sslmode=disable").geturl()

    def refuse(self) -> None:
        """Accept no more connections; those that are open stay."""
        self._server.close()

    def break_next(self, fault: Fault | None) -> None:
        """Break the connection at the next COMMIT; None: let it pass after all."""
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
            await _close(writer)

    async def _pass_on(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        host, port = self._parts.hostname, self._parts.port or 5432
        up_reader, up_writer = await asyncio.open_connection(host, port)
        answers = asyncio.create_task(self._answer(up_reader, writer))
        try:
            await self._relay(reader, writer, up_reader, up_writer, answers)
        finally:
            answers.cancel()
            await _close(up_writer)

    async def _answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Pass on what the server says."""
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
        """Pass on what the client says, up to its end or to the COMMIT at which the connection breaks."""
        while data := await reader.read(65536):
            if self._armed is None or not COMMIT(data):
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
                self.carried_out += (await up_reader.read(65536)).startswith(COMMAND_COMPLETE)
            return


async def _close(writer: asyncio.StreamWriter) -> None:
    """Send what is left; return when the connection is closed."""
    writer.close()
    with suppress(OSError):
        await writer.wait_closed()
