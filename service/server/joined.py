"""One write for a response: uvicorn's two, of head and body, are two system calls and two packets."""

import asyncio
from typing import Final

CONTINUE: Final = b"HTTP/1.1 100 Continue\r\n\r\n"


class JoinedWrites:
    """The transport of one response. The head is kept back until the body is written, or there is none."""

    __slots__ = ("_head", "_transport")

    def __init__(self, transport: asyncio.Transport) -> None:
        self._transport = transport
        self._head: bytes | None = None
        """None: not made yet; empty: written."""

    def write(self, data: bytes) -> None:
        """Write a part of the body, the first one with the head."""
        if self._head:
            self._transport.writelines([self._head, data])
            self._head = b""
        elif self._head is None and data != CONTINUE:
            self._head = data
        else:
            self._transport.write(data)

    def flush(self) -> None:
        """Write the head of a response that has no body."""
        if self._head:
            self._transport.write(self._head)
            self._head = b""

    def is_closing(self) -> bool:
        """Whether the connection is closed, or being closed."""
        return self._transport.is_closing()

    def close(self) -> None:
        """Close the connection when everything is written."""
        self.flush()
        self._transport.close()
