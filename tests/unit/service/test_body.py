"""Request bodies: their type, their size, and bodies in several pieces."""

import pytest
from starlette.types import Message

from service.edge.calls.body import MAX_BYTES, Disconnected, check_content_type, read_body
from service.edge.calls.problems import EdgeError


@pytest.mark.parametrize(
    "content_type",
    [
        b"application/json",
        b"Application/JSON",
        b"application/json; charset=utf-8",
        b'application/json;charset="UTF-8"',
    ],
)
def test_json_content_types(content_type: bytes) -> None:
    """JSON is accepted in any letter case, with or without its charset."""
    check_content_type({b"content-type": content_type})


@pytest.mark.parametrize(
    "content_type",
    [b"", b"text/plain", b"application/xml", b"application/json; charset=latin1", b"*/*"],
)
def test_other_content_types(content_type: bytes) -> None:
    """A body that is not declared as JSON in UTF-8 is refused."""
    with pytest.raises(EdgeError) as refusal:
        check_content_type({b"content-type": content_type} if content_type else {})
    assert refusal.value.code == "unsupported_media_type"


class Messages:
    """The messages of a server about a body: these chunks, and then a disconnect."""

    def __init__(self, *chunks: bytes, complete: bool = True) -> None:
        self._messages: list[Message] = [
            {"type": "http.request", "body": chunk, "more_body": True} for chunk in chunks
        ]
        if complete and self._messages:
            self._messages[-1]["more_body"] = False
        self._messages.append({"type": "http.disconnect"})

    async def receive(self) -> Message:
        """Return the next message."""
        return self._messages.pop(0)


async def test_chunks_are_put_together() -> None:
    """A body may arrive in any number of pieces."""
    assert await read_body({}, Messages(b"ab", b"", b"c").receive) == b"abc"
    assert await read_body({}, Messages(b"abc").receive) == b"abc"


@pytest.mark.parametrize(
    "messages",
    [
        Messages(b"x" * (MAX_BYTES + 1)),
        Messages(b"x" * MAX_BYTES, b"x"),
        Messages(b"x" * MAX_BYTES, b"x", complete=False),
    ],
)
async def test_large_body_is_refused_whatever_it_says(messages: Messages) -> None:
    """A body of more than 1 MiB is refused without a declared length too, before its end."""
    with pytest.raises(EdgeError) as refusal:
        await read_body({}, messages.receive)
    assert refusal.value.code == "payload_too_large"


async def test_announced_length_is_refused_before_it_is_read() -> None:
    """A body with a declared length above the limit is refused before it is read."""
    headers = {b"content-length": b"%d" % (MAX_BYTES + 1)}
    with pytest.raises(EdgeError) as refusal:
        await read_body(headers, Messages().receive)
    assert refusal.value.code == "payload_too_large"


async def test_a_mebibyte_is_accepted() -> None:
    """A body of exactly 1 MiB is accepted."""
    body = b"x" * MAX_BYTES
    assert await read_body({b"content-length": b"%d" % MAX_BYTES}, Messages(body).receive) == body


async def test_caller_that_goes_away_is_noticed() -> None:
    """A body that ends with a disconnect is not used."""
    with pytest.raises(Disconnected):
        await read_body({}, Messages(b"half", complete=False).receive)
