"""Responses to requests that the application does not see; the connection is closed after them."""

from collections.abc import Iterable
from functools import partial
from typing import Final

from uvicorn.protocols.http.httptools_impl import STATUS_LINE

from service.edge.calls.problems import EdgeError, FieldError, problem_reply

MAX_HEAD_BYTES: Final = 64 << 10
"""Bytes of the request line and the headers together."""
MAX_BODY_BYTES: Final = 8 << 20
"""Bytes of one body as received: with the sizes of its chunks, their extensions and its trailers.

A body of 1 MiB in chunks of one byte takes 6 MiB. The parser keeps trailers until they end.
"""

GARBAGE: Final = partial(
    EdgeError,
    "validation_error",
    "this is no HTTP/1.1 request",
    errors=[FieldError("request", "is not HTTP/1.1")],
)
TOO_LARGE: Final = partial(
    EdgeError,
    "headers_too_large",
    f"request line and headers are larger than {MAX_HEAD_BYTES} bytes",
)
SLOW_HEAD: Final = partial(EdgeError, "request_timeout", "the headers did not end in time")
SLOW_BODY: Final = partial(EdgeError, "request_timeout", "the body did not end in time")
LONG_BODY: Final = partial(
    EdgeError,
    "payload_too_large",
    f"the body took more than {MAX_BODY_BYTES} bytes with its chunk sizes and trailers",
)
FULL: Final = partial(EdgeError, "unavailable", "too many connections are open: try again")


def response(refusal: EdgeError, request_id: str, known: Iterable[tuple[bytes, bytes]]) -> bytes:
    """Return the bytes of the response: the problem, with the headers of every response to the request."""
    reply = problem_reply(refusal, request_id)
    headers = (
        *known,
        *reply.headers,
        (b"content-length", b"%d" % len(reply.body)),
        (b"connection", b"close"),
    )
    lines = [name + b": " + value + b"\r\n" for name, value in headers]
    return b"".join([STATUS_LINE[reply.status], *lines, b"\r\n", reply.body])
