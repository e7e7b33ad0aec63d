"""A caller that needs little CPU time: httpx would need more than the service."""

import asyncio
from types import TracebackType
from typing import NamedTuple, Self
from urllib.parse import urlsplit

END_OF_HEAD = b"\r\n\r\n"
LENGTH = b"\r\ncontent-length:"


class Answer(NamedTuple):
    """Status and body of an answer."""

    status: int
    body: bytes


class LightCaller(asyncio.Protocol):
    """One connection that makes one call after another; each answer must have a Content-Length."""

    def __init__(self, url: str, key: str) -> None:
        address = urlsplit(url)
        self._host, self._port = str(address.hostname), int(address.port or 80)
        self._key = key
        self._received = b""
        self._answer: asyncio.Future[Answer] = asyncio.Future()
        self._transport: asyncio.Transport

    async def __aenter__(self) -> Self:
        loop = asyncio.get_running_loop()
        self._transport, _ = await loop.create_connection(lambda: self, self._host, self._port)
        return self

    async def __aexit__(
        self, _: type[BaseException] | None, __: BaseException | None, ___: TracebackType | None
    ) -> None:
        self._transport.close()

    async def call(self, method: str, path: str, body: bytes = b"") -> Answer:
        """Make one call."""
        self._answer = asyncio.get_running_loop().create_future()
        head = f"{method} {path} HTTP/1.1\r\nHost: test\r\nX-API-KEY: {self._key}\r\n"
        if body:
            head += f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n"
        self._transport.write(f"{head}\r\n".encode() + body)
        return await self._answer

    def data_received(self, data: bytes) -> None:
        """Take a part of an answer."""
        self._received += data
        head, end, body = self._received.partition(END_OF_HEAD)
        if not end:
            return
        length = int(head.lower().partition(LENGTH)[2].partition(b"\r\n")[0])
        if len(body) >= length:
            self._received = b""
            self._answer.set_result(Answer(int(head.split(b" ", 2)[1]), body))

    def connection_lost(self, error: Exception | None) -> None:
        """Fail the call that waits for an answer."""
        if not self._answer.done():
            self._answer.set_exception(error or ConnectionResetError())
