"""Responses are written by one call of the transport, head and body together."""

import asyncio
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING

import pytest

from service.server.joined import CONTINUE, JoinedWrites

if TYPE_CHECKING:
    Buffer = bytes | bytearray | memoryview

HEAD = b"HTTP/1.1 200 OK\r\n\r\n"


class Recorder(asyncio.Transport):
    """A transport that notes what each call writes."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[bytes] = []

    def write(self, data: "Buffer") -> None:
        """Note the data."""
        self.calls.append(bytes(data))

    def writelines(self, list_of_data: "Iterable[Buffer]") -> None:
        """Note all data as one."""
        self.calls.append(b"".join(list_of_data))

    def close(self) -> None:
        """Note the end."""
        self.calls.append(b"closed")


def write_all(*parts: bytes) -> Callable[[JoinedWrites], None]:
    """Return what writes these parts one after the other."""

    def write(joined: JoinedWrites) -> None:
        for part in parts:
            joined.write(part)

    return write


@pytest.mark.parametrize(
    ("write", "calls"),
    [
        (write_all(HEAD, b"body"), [HEAD + b"body"]),
        (write_all(HEAD, b"a", b"HTTP/1.1 b"), [HEAD + b"a", b"HTTP/1.1 b"]),
        (write_all(CONTINUE, HEAD, b"body"), [CONTINUE, HEAD + b"body"]),
        (write_all(HEAD, b""), [HEAD]),
    ],
    ids=["body", "body in parts", "100-continue", "empty body"],
)
def test_head_and_body_are_one_write(
    write: Callable[[JoinedWrites], None], calls: list[bytes]
) -> None:
    """The head is kept back until the first part of the body; 100 Continue is no head."""
    recorder = Recorder()
    joined = JoinedWrites(recorder)
    write(joined)
    joined.flush()
    assert recorder.calls == calls


def test_a_head_without_a_body_is_written_at_the_end() -> None:
    """The head of an answer to HEAD is written when the answer is complete, or the connection closes."""
    for end, calls in ((JoinedWrites.flush, [HEAD]), (JoinedWrites.close, [HEAD, b"closed"])):
        recorder = Recorder()
        joined = JoinedWrites(recorder)
        joined.write(HEAD)
        assert recorder.calls == []
        end(joined)
        joined.flush()
        assert recorder.calls == calls
