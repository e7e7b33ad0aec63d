"""One call: its caller, its request id, and the meaning of its headers.

If a header has several lines, their values are joined by commas (RFC 9110, section 5.3). For a header
that is a list, the result is the whole list. A header that takes a single value becomes malformed by
the comma. So the service never picks one of several values, where a proxy may pick another one.
"""

import hashlib
import re
from collections.abc import Mapping, Sequence
from typing import Final

from service.core.ids import IdSource
from service.core.preconditions import Preconditions
from service.core.values import Caller
from service.core.writes import Idempotency
from service.edge.calls.conditions import preconditions_of
from service.edge.calls.problems import EdgeError, FieldError
from service.store.keys import Key

Lines = Sequence[tuple[bytes, bytes]]

_valid_request_id = re.compile(rb"[A-Za-z0-9_.\-]{1,128}\Z").match
_valid_idempotency_key = re.compile(rb"[\x21-\x7e]{1,255}\Z").match

# W3C Trace Context, section 3.2: a later version may go on after the flags.
_traceparent = re.compile(rb"([0-9a-f]{2})-([0-9a-f]{32}-[0-9a-f]{16})-([0-9a-f]{2})(-.*)?\Z").match
_NO_TRACE: Final = b"0" * 32
_NO_PARENT: Final = b"0" * 16
_SAMPLED: Final = 1


class Call:
    """A request, with what the gate has found out about it. It is a handler's first argument."""

    __slots__ = (
        "body",
        "headers",
        "key",
        "method",
        "params",
        "path",
        "query",
        "request_id",
        "response_headers",
        "route",
    )

    key: Key
    """Set once the caller's key has been checked; public paths have none."""
    params: dict[str, str]
    """Parameters of the path, by the name that the route gives them."""

    def __init__(self, method: str, path: str, query: bytes, lines: Lines, ids: IdSource) -> None:
        self.method = method
        self.path = path
        self.query = query
        self.headers = headers_of(lines)
        self.body = b""
        self.route = "none"
        """The route's template, as the metrics name it; `none` until one is found."""
        self.request_id = request_id_of(self.headers) or ids.request_id()
        self.response_headers = [(b"x-request-id", self.request_id.encode())]
        """Headers of every response to the call: its id, then CORS, then the key's quota."""

    @property
    def caller(self) -> Caller:
        """The caller as the events of a write name it."""
        traceparent = self.headers.get(b"traceparent")
        return Caller(
            self.key.workspace_id,
            self.key.id,
            self.request_id,
            None if traceparent is None else traceparent_of(traceparent),
        )

    @property
    def idempotency(self) -> Idempotency | None:
        """The digests by which a reply is stored and found; None: the call has no Idempotency-Key.

        Raises:
            EdgeError: the key is not 1 to 255 visible characters.
        """
        key = self.headers.get(b"idempotency-key")
        if key is None:
            return None
        if len(key) > 1 and key.startswith(b'"') and key.endswith(b'"'):
            key = key[1:-1]
        if not _valid_idempotency_key(key):
            raise invalid_field("Idempotency-Key", "has to be 1 to 255 visible ASCII characters")
        which = b"\0".join((self.method.encode(), self.path.encode(), key))
        says = self.query + b"\0" + self.body
        return Idempotency(hashlib.sha256(which).digest(), hashlib.sha256(says).digest())

    @property
    def preconditions(self) -> Preconditions | None:
        """The state of the document that If-Match and If-None-Match require; None: any.

        Raises:
            EdgeError: one of them is malformed.
        """
        if b"if-match" in self.headers or b"if-none-match" in self.headers:
            return preconditions_of(self.headers)
        return None


def headers_of(lines: Lines) -> dict[bytes, bytes]:
    """Return the value of each header; repeated lines are joined in their order."""
    headers = dict(lines)
    if len(headers) == len(lines):
        return headers
    values: dict[bytes, list[bytes]] = {}
    for name, value in lines:
        values.setdefault(name, []).append(value)
    return {name: b", ".join(value) for name, value in values.items()}


def request_id_of(headers: Mapping[bytes, bytes]) -> str | None:
    """Return the X-Request-ID; None if the caller sent none, or an invalid one."""
    given = headers.get(b"x-request-id", b"")
    return given.decode() if _valid_request_id(given) else None


def traceparent_of(value: bytes) -> str | None:
    """Return a traceparent of version 00 (W3C Trace Context); None if the value is not valid.

    Of a later version, the first four fields are read, and only the flag "sampled" is kept.
    """
    if (found := _traceparent(value)) is None:
        return None
    version, ids, flags, more = found.groups()
    trace, _, parent = ids.partition(b"-")
    if version == b"ff" or trace == _NO_TRACE or parent == _NO_PARENT:
        return None
    if version == b"00":
        return None if more else value.decode()
    return f"00-{ids.decode()}-{int(flags, 16) & _SAMPLED:02x}"


def invalid_field(field: str, message: str) -> EdgeError:
    """Return the error for one wrong field."""
    return EdgeError("validation_error", f"{field}: {message}", errors=[FieldError(field, message)])
