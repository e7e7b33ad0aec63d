"""Requests that the server refuses itself: checks of a head that the parser lacks, and the responses.

The application does not see such a request. The connection is closed after the response.
"""

import re
from collections.abc import Iterable
from functools import partial
from typing import Final

import httptools
from uvicorn.protocols.http.httptools_impl import STATUS_LINE

from service.edge.calls.call import Headers, invalid_field
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

# RFC 3986, section 3.2.2, and a port; the host may be empty.
_is_host = re.compile(
    rb"(?:[A-Za-z0-9._~!$&'()*+,;=-]*(?:%[0-9A-Fa-f]{2}[A-Za-z0-9._~!$&'()*+,;=-]*)*"
    rb"|\[[0-9A-Fa-f:.]+\])(?::[0-9]*)?\Z"
).match


def check_size(target: bytes, headers: Headers) -> None:
    """Check the size of a head, its separators included.

    Raises:
        EdgeError: `headers_too_large`.
    """
    size = len(target) + sum(len(name) + len(value) + 4 for name, value in headers)
    if size > MAX_HEAD_BYTES:
        raise TOO_LARGE()  # noqa: RSE102 - it is no class


def check_host(headers: Headers, http_version: str) -> None:
    """Require one Host with a valid value; HTTP/1.0 allows none (RFC 9112, section 3.2).

    Raises:
        EdgeError: `validation_error`.
    """
    hosts = [value for name, value in headers if name == b"host"]
    if len(hosts) == 1 and _is_host(hosts[0]):
        return
    if hosts:
        words = "has to be one host name or address, with or without a port"
        raise invalid_field("Host", words)
    if http_version != "1.0":
        raise invalid_field("Host", "is missing: HTTP/1.1 requires it")


def origin_form(target: bytes) -> bytes:
    """Return the origin form, `/path?query`, of another form of request target (RFC 9112, section 3.2).

    Raises:
        HttpParserInvalidURLError: the target is malformed.
    """
    if target == b"*":
        return b"/*"
    url = httptools.parse_url(target)
    path: bytes | None = url.path  # httptools' types omit None
    query: bytes | None = url.query
    return (path or b"/") + (b"" if query is None else b"?" + query)


def response(refusal: EdgeError, request_id: str, headers: Iterable[tuple[bytes, bytes]]) -> bytes:
    """Return the bytes of the response: the problem, with the headers of every response to the request."""
    reply = problem_reply(refusal, request_id)
    lines = [
        name + b": " + value + b"\r\n"
        for name, value in (
            *headers,
            *reply.headers,
            (b"content-length", b"%d" % len(reply.body)),
            (b"connection", b"close"),
        )
    ]
    return b"".join([STATUS_LINE[reply.status], *lines, b"\r\n", reply.body])
