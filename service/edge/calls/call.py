"""One call: its caller, its request id, and the meaning of its headers.

The values of a header in several lines are joined by commas (RFC 9110, section 5.3). A list becomes the
whole list, and a header that takes one value becomes malformed. So the service never chooses one of
several values where a proxy may choose another.
"""

import hashlib
import re
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Final

from service.core.ids import IdSource
from service.core.preconditions import Preconditions, Tags
from service.core.values import Caller
from service.core.writes import Idempotency
from service.edge.calls.problems import EdgeError, FieldError
from service.store.keys import Key

if TYPE_CHECKING:
    from service.edge.calls.places import Places

Headers = Sequence[tuple[bytes, bytes]]

_valid_request_id = re.compile(rb"[A-Za-z0-9_.\-]{1,128}\Z").match
_valid_idempotency_key = re.compile(rb"[\x21-\x7e]{1,255}\Z").match

# W3C Trace Context, section 3.2: a later version may go on after the flags.
_traceparent = re.compile(rb"([0-9a-f]{2})-([0-9a-f]{32}-[0-9a-f]{16})-([0-9a-f]{2})(-.*)?\Z").match
# W3C Trace Context, section 3.3: a list of vendors' values. `headers_of` has joined its lines.
_tracestate = re.compile(
    rb"(?=[\x20-\x7e\t]{1,512}\Z)"
    rb"[a-z0-9][a-z0-9_\-*/@]{0,255}=[\x20-\x2b\x2d-\x3c\x3e-\x7e]{1,256}"
    rb"(,[ \t]*([a-z0-9][a-z0-9_\-*/@]{0,255}=[\x20-\x2b\x2d-\x3c\x3e-\x7e]{1,256})?)*\Z"
).match
_NO_TRACE: Final = b"0" * 32
_NO_PARENT: Final = b"0" * 16
_SAMPLED: Final = 1

_entity_tag = re.compile(rb'[ \t,]*((?:W/)?"([\x21\x23-\x7e\x80-\xff]*)")[ \t]*(?=,|\Z)').match
# The service's tags are revisions of the data. Proxies that compress a response change them: nginx makes
# them weak, Apache and Caddy append the coding. All these forms count as the tag.
_revision = re.compile(rb"([0-9]{1,19})(?:(?:--?|;)(?:gzip|br|zstd|deflate))?\Z").match
_MALFORMED_TAGS: Final = 'has to be `*`, or a list of entity tags like "7" in double quotes'


class Call:
    """A request, with the key and the route that the gate has found. It is a handler's first argument."""

    __slots__ = (
        "body",
        "headers",
        "key",
        "method",
        "params",
        "path",
        "places",
        "query",
        "request_id",
        "response_headers",
        "route",
    )

    key: Key
    """Set once the caller's key has been checked; public paths have none."""
    places: "Places"
    """Where the call takes its place; set by the gate."""
    params: dict[str, str]
    """Parameters of the path, by the name that the route gives them."""

    def __init__(self, method: str, path: str, query: bytes, lines: Headers, ids: IdSource) -> None:
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
        """The key, the request and the trace that the events of a write name."""
        given = self.headers.get(b"traceparent")
        traceparent = None if given is None else traceparent_of(given)
        return Caller(
            self.key.workspace_id,
            self.key.id,
            self.request_id,
            traceparent,
            None if traceparent is None else tracestate_of(self.headers),
        )

    @property
    def idempotency(self) -> Idempotency | None:
        """The digests under which the reply is stored; None: the call has no Idempotency-Key.

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
        scope = b"\0".join((self.method.encode(), self.path.encode(), key))
        content = self.query + b"\0" + self.body
        return Idempotency(hashlib.sha256(scope).digest(), hashlib.sha256(content).digest())

    @property
    def preconditions(self) -> Preconditions | None:
        """The state of the document that If-Match and If-None-Match require; None: any.

        Raises:
            EdgeError: one of them is malformed.
        """
        if b"if-match" in self.headers or b"if-none-match" in self.headers:
            return preconditions_of(self.headers)
        return None


def headers_of(lines: Headers) -> dict[bytes, bytes]:
    """Return the value of each header; repeated lines are joined in their order."""
    headers = dict(lines)
    if len(headers) == len(lines):
        return headers
    values: dict[bytes, list[bytes]] = {}
    for name, value in lines:
        values.setdefault(name, []).append(value)
    return {name: b", ".join(value) for name, value in values.items()}


def request_id_of(headers: Mapping[bytes, bytes]) -> str | None:
    """Return the X-Request-ID; None: the caller sent none, or an invalid one."""
    given = headers.get(b"x-request-id", b"")
    return given.decode() if _valid_request_id(given) else None


def traceparent_of(value: bytes) -> str | None:
    """Return a traceparent of version 00 (W3C Trace Context); None: the value is invalid.

    Of a later version, the first four fields are read, and the flag `sampled` is kept.
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


def tracestate_of(headers: Mapping[bytes, bytes]) -> str | None:
    """Return the tracestate (W3C Trace Context); None: there is none, or it is invalid or too long."""
    given = headers.get(b"tracestate")
    return None if given is None or not _tracestate(given) else given.decode()


def preconditions_of(headers: Mapping[bytes, bytes]) -> Preconditions:
    """Return the state that If-Match and If-None-Match require (RFC 9110, sections 13.1.1 and 13.1.2).

    Weak tags count as strong ones in If-Match too. Otherwise every conditional write behind a proxy
    that makes tags weak would fail.

    Raises:
        EdgeError: `validation_error`: a header is malformed.
    """
    return Preconditions(_tags(headers, "If-Match"), _tags(headers, "If-None-Match"))


def _tags(headers: Mapping[bytes, bytes], name: str) -> Tags | None:
    value = headers.get(name.lower().encode())
    if value is None:
        return None
    value = value.strip(b" \t")
    if value == b"*":
        return Tags(star=True)
    opaque = _opaque_tags(value)
    if not opaque:
        raise invalid_field(name, _MALFORMED_TAGS)
    matches = map(_revision, opaque)
    return Tags(frozenset(int(match[1]) for match in matches if match is not None))


def _opaque_tags(value: bytes) -> list[bytes]:
    """Return the text in the quotes of each tag of a list; an empty list if it is malformed."""
    found = []
    position = 0
    while (tag := _entity_tag(value, position)) is not None:
        found.append(tag[2])
        position = tag.end()
    return [] if value[position:].strip(b" \t,") else found


def invalid_field(field: str, message: str) -> EdgeError:
    """Return the error for one wrong field."""
    return EdgeError("validation_error", f"{field}: {message}", errors=[FieldError(field, message)])
