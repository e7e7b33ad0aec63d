"""Reading a request's body: its size and its media type. How long it takes is the protocol's to bound."""

from codecs import BOM_UTF8
from collections.abc import Mapping
from typing import Any, Final

from starlette.types import Receive

from service.edge.calls.headers import charset_of
from service.edge.calls.problems import EdgeError
from service.edge.calls.validation import unreadable

MAX_BYTES: Final = 1 << 20
ACCEPT_ENCODING: Final = (b"accept-encoding", b"identity")


class Disconnected(Exception):  # noqa: N818 - nobody is left to answer
    """The caller went away before the body was complete."""


async def read_json(headers: Mapping[bytes, bytes], receive: Receive) -> bytes:
    """Return the body of a call that takes JSON, without a byte order mark (RFC 8259, section 8.1).

    Raises:
        EdgeError: there is none, it is too large, or of another type.
        Disconnected: the caller has gone, or has been cut off.
    """
    if b"transfer-encoding" not in headers and not headers.get(b"content-length", b"").strip(b"0"):
        raise unreadable("body", "is missing: send a JSON object, `{}` at the least")
    check_content_type(headers)
    return (await read_body(headers, receive)).removeprefix(BOM_UTF8)


async def read_body(headers: Mapping[bytes, bytes], receive: Receive) -> bytes:
    """Return the whole body.

    Raises:
        EdgeError: it is too large.
        Disconnected: the caller has gone, or has been cut off.
    """
    length = headers.get(b"content-length", b"")
    if length.isdigit() and int(length) > MAX_BYTES:
        raise _too_large()
    message = await receive()
    if message["type"] == "http.request" and not message.get("more_body"):
        body: bytes = message.get("body", b"")
        if len(body) > MAX_BYTES:
            raise _too_large()
        return body
    return await _read_on(message, receive)


async def _read_on(message: Any, receive: Receive) -> bytes:  # noqa: ANN401 - an ASGI message
    """Read the chunks of a body that came in several."""
    chunks = []
    size = 0
    while True:
        if message["type"] == "http.disconnect":
            raise Disconnected
        chunks.append(message.get("body", b""))
        size += len(chunks[-1])
        if size > MAX_BYTES:
            raise _too_large()
        if not message.get("more_body"):
            return b"".join(chunks)
        message = await receive()


def check_content_type(headers: Mapping[bytes, bytes]) -> None:
    """Accept JSON in UTF-8 without a content coding; parameters other than charset are ignored.

    Raises:
        EdgeError: `unsupported_media_type`.
    """
    codings = headers.get(b"content-encoding", b"")
    if codings and {each.strip().lower() for each in codings.split(b",")} - {b"", b"identity"}:
        raise EdgeError(
            "unsupported_media_type",
            "the body has a content coding: send it without one, and without `Content-Encoding`",
            headers=[ACCEPT_ENCODING],
        )
    if headers.get(b"transfer-encoding", b"chunked").lower() != b"chunked":
        raise EdgeError(
            "unsupported_media_type",
            "the body has a transfer coding besides chunked: send it without one",
        )
    given = headers.get(b"content-type", b"")
    if given == b"application/json":
        return
    media_type, charsets = charset_of(given)
    if media_type != b"application/json" or charsets - {b"", b"utf-8", b"utf8"}:
        raise EdgeError(
            "unsupported_media_type", "send the body as `Content-Type: application/json` in UTF-8"
        )


def _too_large() -> EdgeError:
    return EdgeError("payload_too_large", f"the body is larger than {MAX_BYTES} bytes")
