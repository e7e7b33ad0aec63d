"""Limits on callers, which uvicorn's HTTP protocol does not have: how much they send, and how slowly.

Whoever connects, owes a request's head within the time for a request, counted from connecting and
from its first byte; then the body, within as long again. Between requests a connection may be idle
for longer. What cannot be read is answered as a problem, where there is still somebody to answer.

Nothing is timed while whole requests come: a timer is started only for what is incomplete when its
bytes have been read.
"""

import asyncio
from http import HTTPStatus
from typing import Any, Final

import httptools
from msgspec import Struct
from uvicorn.config import Config
from uvicorn.protocols.http.httptools_impl import (
    STATUS_LINE,
    HttpToolsProtocol,
    RequestResponseCycle,
)
from uvicorn.server import ServerState

from service.edge.calls.call import request_id_of
from service.edge.calls.headers import fields_of
from service.edge.calls.problems import (
    CONTENT_TYPE,
    RETRY_AFTER_S,
    FieldError,
    Problem,
    encode,
    title_of,
)
from service.edge.gate.cors import Cors
from service.server.upgrades import UpgradeFilter
from service.stopping import Stopping

MAX_HEAD_BYTES: Final = 64 << 10
"""Request line and headers together."""
MAX_BODY_BYTES: Final = 8 << 20
"""Bytes of one body as received: with the sizes of its chunks, their extensions and its trailers.

A body of 1 MiB in chunks of one byte takes 6 MiB. Trailers are kept by the parser until they end.
"""
LINGER_S: Final = 1.0
"""For the caller to read its refusal: closing at once would throw it away with what is still unread."""

LAST_CALL_S: Final = 0.5
"""Between the end of the drain and the closing of an idle connection: a request may be under way."""


class Limits(Struct, frozen=True):
    """What can be set."""

    request_timeout_s: float
    """For a head to come, and again for a body."""
    max_connections: int
    """Of one process."""


class Refusal(Struct, frozen=True):
    """Why the caller is not served, and its connection closed."""

    status: HTTPStatus
    code: str
    detail: str
    errors: list[FieldError] = []


GARBAGE: Final = Refusal(
    HTTPStatus.BAD_REQUEST,
    "validation_error",
    "this is no HTTP/1.1 request",
    [FieldError("request", "is not HTTP/1.1")],
)
TOO_LARGE: Final = Refusal(
    HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE,
    "headers_too_large",
    f"request line and headers are larger than {MAX_HEAD_BYTES} bytes",
)
SLOW_HEAD: Final = Refusal(
    HTTPStatus.REQUEST_TIMEOUT, "request_timeout", "the headers did not end in time"
)
SLOW_BODY: Final = Refusal(
    HTTPStatus.REQUEST_TIMEOUT, "request_timeout", "the body did not end in time"
)
LONG_BODY: Final = Refusal(
    HTTPStatus.REQUEST_ENTITY_TOO_LARGE,
    "payload_too_large",
    f"the body took more than {MAX_BODY_BYTES} bytes with its chunk sizes and trailers",
)
FULL: Final = Refusal(
    HTTPStatus.SERVICE_UNAVAILABLE, "unavailable", "too many connections are open: try again"
)


class LimitedProtocol(HttpToolsProtocol):
    """One connection; uvicorn makes it with what it knows, `limits` is ours."""

    def __init__(
        self,
        config: Config,
        server_state: ServerState,
        app_state: dict[str, Any],
        _loop: asyncio.AbstractEventLoop | None = None,
        *,
        limits: Limits,
        cors: Cors | None = None,
    ) -> None:
        super().__init__(config, server_state, app_state, _loop)
        self._limits = limits
        self._cors = cors
        self._stopping: Stopping = app_state["stopping"]
        self._stopping.connections = server_state.connections
        self._head_bytes = 0
        """Since nothing was being served: no less than a head that came in pieces."""
        self._head_timer: asyncio.TimerHandle | None = None
        self._body_timer: asyncio.TimerHandle | None = None
        self._receiving: RequestResponseCycle | None = None
        """The request whose body is timed and counted."""
        self._body_bytes = 0
        self._refusal: Refusal | None = None
        self._fault = GARBAGE
        self._before: RequestResponseCycle | None = None
        """The request that was being answered when the latest one was read."""
        self._upgrades = UpgradeFilter()
        self._held = b""
        """The beginning of a line of a head that may become an Upgrade: not parsed yet."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override] # as uvicorn has it
        """Expect a request, unless there are too many callers."""
        super().connection_made(transport)
        if len(self.connections) > self._limits.max_connections:
            self._refuse(FULL)
        else:
            self._expect_head()
        if self._stopping.drained:
            self.shutdown()

    def connection_lost(self, exc: Exception | None) -> None:
        """Stop all timers."""
        super().connection_lost(exc)
        for timer in (self._head_timer, self._body_timer):
            if timer is not None:
                timer.cancel()

    def data_received(self, data: bytes) -> None:
        """Let uvicorn read; then see what is still to come."""
        if self._refusal is not None:
            return
        self._head_bytes += len(data)
        if not self._held and self._upgrades.passes(data):
            HttpToolsProtocol.data_received(self, data)  # super() costs more, at every request
        else:
            self._receive_without_upgrade(self._held + data)
        if self._refusal is not None:
            return
        if self._stopping.begun:
            self.close_after_answer()
        cycle = self.cycle
        if cycle is None or cycle.response_complete or cycle.scope is not self.scope:  # type: ignore[redundant-expr] # None at first
            self._expect_head()
            return
        self._head_bytes = 0
        if self._head_timer is not None:
            self._head_timer.cancel()
            self._head_timer = None
        if cycle.more_body:
            self._expect_body(cycle, len(data))

    def close_after_answer(self) -> None:
        """Announce in the answer to the last request that was read that the connection is closed."""
        if self._is_answering:
            self.cycle.keep_alive = False

    def shutdown(self) -> None:
        """Answer what has begun to come, then close; nothing new is accepted any more."""
        self.close_after_answer()
        self.loop.call_later(LAST_CALL_S, self._close_if_idle)

    def _close_if_idle(self) -> None:
        if not (self._is_answering or self._in_head or self.transport.is_closing()):
            self.transport.close()

    @property
    def _is_answering(self) -> bool:
        """Whether a request was read whose answer is not complete."""
        return self.cycle is not None and not self.cycle.response_complete  # type: ignore[redundant-expr] # None at first

    @property
    def _in_head(self) -> bool:
        """Whether a head has begun and not ended: uvicorn has its scope, but no cycle for it."""
        if self.cycle is None:
            return self.scope is not None
        return self.cycle.scope is not self.scope

    def _size_of_head(self) -> int:
        """Return the bytes of the head that has been read, its separators included."""
        return len(self.url) + sum(len(name) + len(value) + 4 for name, value in self.headers)

    def send_400_response(self, msg: str) -> None:  # noqa: ARG002 - uvicorn's words are for programmers
        """Refuse what the parser cannot read, and heads that are complete and too large."""
        if self._refusal is None:
            self._refuse(self._fault)

    def on_headers_complete(self) -> None:
        """Let the request be answered.

        Raises:
            ValueError: the head is too large; like every error here, the parser passes it on.
        """
        if self._head_bytes > MAX_HEAD_BYTES and self._size_of_head() > MAX_HEAD_BYTES:
            self._fault = TOO_LARGE
            raise ValueError
        self._before = self.cycle if self._is_answering else None
        if self.url[:1] != b"/":
            self.url = _origin_form(self.url)
        if self.expect_100_continue and self.parser.get_http_version() == "1.0":
            self.expect_100_continue = False  # RFC 9110, section 10.1.1
        super().on_headers_complete()
        self.headers = []  # trailers are dropped: merged, they would pass for headers of the head

    def _receive_without_upgrade(self, data: bytes) -> None:
        """Let uvicorn read; hold back the beginning of a field of a head that may be an Upgrade."""
        data, last = self._upgrades.split(data)
        self._held = b""
        if data:
            HttpToolsProtocol.data_received(self, data)
        if self._in_head:
            self._held = last
        elif last and self._refusal is None:
            self._upgrades.in_line = True
            HttpToolsProtocol.data_received(self, last)

    def _expect_head(self) -> None:
        """Give the caller the time of a request to send its head; it is not given twice."""
        if not self._in_head:
            self._head_bytes = 0
        elif self._head_bytes > MAX_HEAD_BYTES and self._refusal is None:
            self._refuse(TOO_LARGE)
        if self._head_timer is None and self._refusal is None:
            self._head_timer = self.loop.call_later(
                self._limits.request_timeout_s, self._on_slow_head
            )

    def _expect_body(self, cycle: RequestResponseCycle, received: int) -> None:
        """Give the caller the time of a request to send its body, and room for what is around it."""
        if cycle is not self._receiving:
            self._receiving = cycle
            self._body_bytes = 0
            if self._body_timer is not None:
                self._body_timer.cancel()  # it was for an earlier request
            self._body_timer = self.loop.call_later(
                self._limits.request_timeout_s, self._on_slow_body, cycle
            )
        self._body_bytes += received
        if self._body_bytes > MAX_BODY_BYTES and not cycle.response_started:
            self._refuse(LONG_BODY)

    def _on_slow_head(self) -> None:
        self._head_timer = None
        if self._refusal is not None:
            return  # it is being closed already
        if self._in_head:
            self._refuse(SLOW_HEAD)
        elif not self.transport.is_closing():
            self.transport.close()

    def _on_slow_body(self, cycle: RequestResponseCycle) -> None:
        self._body_timer = None
        if self._refusal is not None or cycle is not self.cycle or not cycle.more_body:
            return
        if self._answering_before() is not None:  # while it is being answered, nothing is read
            self._body_timer = self.loop.call_later(
                self._limits.request_timeout_s, self._on_slow_body, cycle
            )
        elif not cycle.response_started:
            self._refuse(SLOW_BODY)

    def _answering_before(self) -> RequestResponseCycle | None:
        """Return what is being answered before the latest request, whose head or body is incomplete."""
        cycle = self._before
        if self.cycle is not None and (self._in_head or not self.cycle.more_body):  # type: ignore[redundant-expr] # None at first
            cycle = self.cycle  # the latest one has no cycle yet
        return None if cycle is None or cycle.response_complete else cycle

    def _refuse(self, refusal: Refusal) -> None:
        """Answer with a problem, end what was waiting for the rest, and close.

        While an earlier request of the connection is being answered, the refusal would be read as its
        answer: the connection is closed after that one instead, and its caller may repeat the later.
        """
        self._refusal = refusal
        if self.transport.is_closing():
            return
        if (before := self._answering_before()) is not None:
            if self.pipeline and self.pipeline[0][0] is not before:
                self.pipeline.popleft()  # the one that is refused
            before.keep_alive = False
            return
        if self.cycle is not None and not self.cycle.response_complete:  # type: ignore[redundant-expr] # None at first
            self.cycle.disconnected = True
            self.cycle.message_event.set()
        self.transport.write(self._response(refusal))
        if self.transport.can_write_eof():
            self.transport.write_eof()
        self.loop.call_later(LINGER_S, self.transport.close)

    def _response(self, refusal: Refusal) -> bytes:
        code, status = refusal.code, refusal.status
        title, kind = title_of(status), f"urn:document-links:problem:{code}"
        request_id, known = self._known_of_request()
        body = encode(
            Problem(kind, title, status, refusal.detail, code, request_id, refusal.errors)
        )
        headers = [
            *self.server_state.default_headers,
            (b"content-type", CONTENT_TYPE),
            (b"content-length", b"%d" % len(body)),
            *known,
            (b"connection", b"close"),
        ]
        if status in {HTTPStatus.REQUEST_TIMEOUT, HTTPStatus.SERVICE_UNAVAILABLE}:
            headers.append((b"retry-after", b"%d" % RETRY_AFTER_S))
        lines = [name + b": " + value + b"\r\n" for name, value in headers]
        return b"".join([STATUS_LINE[status], *lines, b"\r\n", body])

    def _known_of_request(self) -> tuple[str, list[tuple[bytes, bytes]]]:
        """Return the id of the request that is refused, and the headers of whatever answers it."""
        scope: Any = self.scope
        if scope is not None and "call" in scope and not self.cycle.response_complete:
            return scope["call"].request_id, scope["call"].response_headers
        fields = fields_of(scope["headers"]) if self._in_head else {}
        request_id = request_id_of(fields)
        cors = [] if self._cors is None else self._cors.headers(fields)
        return request_id, [(b"x-request-id", request_id.encode()), *cors]


def _origin_form(target: bytes) -> bytes:
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
