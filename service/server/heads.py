"""What the head of a request has to be, beyond what the parser checks."""

import re
from collections.abc import Sequence

import httptools

from service.edge.calls.call import invalid_field
from service.server.refusals import MAX_HEAD_BYTES, TOO_LARGE

Headers = Sequence[tuple[bytes, bytes]]

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
    """Require one Host with a valid value; HTTP/1.0 may do without (RFC 9112, section 3.2).

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
    """Return a request target that does not begin with a slash as one that does (RFC 9112, section 3.2).

    Raises:
        HttpParserInvalidURLError: it is malformed.
    """
    if target == b"*":
        return b"/*"
    url = httptools.parse_url(target)
    path: bytes | None = url.path  # its stub does not say that there may be none
    query: bytes | None = url.query  # nor here
    return (path or b"/") + (b"" if query is None else b"?" + query)
