"""Limits on callers that uvicorn's HTTP protocol lacks: how much they send, and how slowly.

The head of the first request has to be complete within the request time-out after the connection was
made, a later head within the same time after its first byte, and a body within the same time after its
head. uvicorn's keep-alive timer bounds the idle time between requests. A request that breaks a limit,
or that the parser cannot read, is answered with a problem, and the connection is closed.

The parser's callbacks set the connection's State. A timer is started only for a head or a body that is
incomplete after a segment, so a request that arrives in one segment starts none.
"""

import asyncio
from enum import Enum, auto
from typing import Any, Final

import httptools
from msgspec import Struct
from uvicorn.config import Config
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle
from uvicorn.server import ServerState

from service.core.ids import IdSource
from service.edge.calls.call import headers_of, request_id_of
from service.edge.calls.problems import EdgeError
from service.edge.gate.cors import Cors
from service.server.heads import check_host, check_size, origin_form
from service.server.refusals import (
    FULL,
    GARBAGE,
    LONG_BODY,
    MAX_BODY_BYTES,
    MAX_HEAD_BYTES,
    SLOW_BODY,
    SLOW_HEAD,
    TOO_LARGE,
    response,
)
from service.stopping import Stopping

LINGER_S: Final = 1.0
"""Time for the caller to read its refusal. Closing a socket with unread bytes resets the connection,
which discards what the caller has not read."""
LAST_CALL_S: Final = 0.5
"""Time between the end of the drain and the closing of an idle connection: a request may be in flight."""


class Limits(Struct, frozen=True):
    """The limits that are settings."""

    request_timeout_s: float
    """Time for a head, and again for a body."""
    max_connections: int
    """Open connections of one process."""


class State(Enum):
    """How much of the latest request the parser has read."""

    IDLE = auto()
    """The whole request; or there was no request yet."""
    HEAD = auto()
    """A part of its head."""
    BODY = auto()
    """Its head, and possibly a part of its body."""


class LimitedProtocol(HttpToolsProtocol):
    """One connection. uvicorn calls it with its own arguments; `limits` and `cors` are bound before."""

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
        self._state = State.IDLE
        self._head_bytes = 0
        """Of the segments that the head has been in: an upper bound of its size."""
        self._body_bytes = 0
        self._head_timer: asyncio.TimerHandle | None = None
        self._body_timer: asyncio.TimerHandle | None = None
        self._refused = False
        self._before: RequestResponseCycle | None = None
        """The request that was being answered when the latest one's head was complete."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override] # as uvicorn has it
        """Expect a request, unless there are too many callers."""
        super().connection_made(transport)
        if len(self.connections) > self._limits.max_connections:
            self._refuse(FULL())
        else:
            self._start_head_timer()
        if self._stopping.drained:
            self.shutdown()

    def connection_lost(self, exc: Exception | None) -> None:
        """Stop all timers."""
        super().connection_lost(exc)
        self._stop_head_timer()
        self._stop_body_timer()

    def data_received(self, data: bytes) -> None:
        """Let the parser read a segment; then bound what is still to come."""
        if self._refused:
            return
        self._unset_keepalive_if_required()
        self._head_bytes += len(data)
        self._feed(data)
        if self._refused:
            return
        if self._stopping.begun:
            self.close_after_answer()
        answering = self._answering
        if self._state is not State.HEAD:
            self._head_bytes = 0
        elif self._head_bytes > MAX_HEAD_BYTES:
            self._refuse(TOO_LARGE())
            return
        if answering is None or self._state is State.HEAD:
            self._start_head_timer()
            return
        if self._head_timer is not None:
            self._stop_head_timer()
        if self._state is State.BODY:
            self._expect_body(answering, len(data))

    def _feed(self, data: bytes) -> None:
        """Let the parser read, and ignore Upgrade, as a server may (RFC 9110, section 7.8).

        Java's HttpClient and `curl --http2` send Upgrade with every first request. httptools returns 1
        from its own on_headers_complete then, so llhttp skips the body, and no callback of the protocol
        can change that. So a new parser reads the head again, without Upgrade, and then the other bytes.
        """
        unread: list[bytes | memoryview] = [data]
        try:
            while unread:
                segment = unread.pop()
                try:
                    self.parser.feed_data(segment)
                except httptools.HttpParserUpgrade as upgrade:
                    unread += [memoryview(segment)[upgrade.args[0] :], self._head_without_upgrade()]
                    self.parser = httptools.HttpRequestParser(self)
                    self.parser.set_dangerous_leniencies(lenient_data_after_close=True)  # as before
        except httptools.HttpParserError as error:
            cause = error.__context__  # what a callback has raised
            self._refuse(cause if isinstance(cause, EdgeError) else GARBAGE())

    def _head_without_upgrade(self) -> bytes:
        method, version = self.parser.get_method(), self.parser.get_http_version().encode()
        line = b"%b %b HTTP/%b\r\n" % (method, self.url, version)
        headers = [b"%b: %b\r\n" % header for header in self.headers if header[0] != b"upgrade"]
        return b"".join([line, *headers, b"\r\n"])

    def on_message_begin(self) -> None:
        """Take note that a head has begun."""
        super().on_message_begin()
        self._state = State.HEAD

    def on_headers_complete(self) -> None:
        """Check the head, and let uvicorn start to answer the request.

        Raises:
            EdgeError: the head is refused. The parser raises an error with this one as its context.
        """
        if self.parser.should_upgrade():
            if self.parser.get_method() == b"CONNECT":
                raise GARBAGE()  # noqa: RSE102 - it is no class
            return  # the head is read again
        if self._head_bytes > MAX_HEAD_BYTES:  # with what was sent before it in the same segment
            check_size(self.url, self.headers)
        http_version = self.parser.get_http_version()
        check_host(self.headers, http_version)
        if self.url[:1] != b"/":
            self.url = origin_form(self.url)
        if http_version == "1.0":
            self.expect_100_continue = False  # RFC 9110, section 10.1.1
        self._before = self._answering
        super().on_headers_complete()
        self.headers = []  # a list for trailers, which must not become headers
        self._state = State.BODY
        if self._body_timer is not None:
            self._stop_body_timer()
        self._body_bytes = 0

    def on_message_complete(self) -> None:
        """Take note that the request has been read."""
        if not self.parser.should_upgrade():
            super().on_message_complete()
            self._state = State.IDLE

    def close_after_answer(self) -> None:
        """Send `Connection: close` with the answer to the last request that was read."""
        if (answering := self._answering) is not None:
            answering.keep_alive = False

    def shutdown(self) -> None:
        """Answer the request that has begun to arrive, then close. uvicorn calls it after the drain."""
        self.close_after_answer()
        self.loop.call_later(LAST_CALL_S, self._close_if_idle)

    def _close_if_idle(self) -> None:
        if self._answering is None and self._state is not State.HEAD:
            self._close()

    def _close(self) -> None:
        if not self.transport.is_closing():
            self.transport.close()

    @property
    def _answering(self) -> RequestResponseCycle | None:
        """The latest request whose head was read, if its answer is not complete."""
        cycle: RequestResponseCycle | None = self.cycle  # uvicorn's type omits None
        return None if cycle is None or cycle.response_complete else cycle

    def _answered_first(self) -> RequestResponseCycle | None:
        """Return the earlier request whose answer has to come before a refusal of the latest one."""
        if self._state is not State.BODY:
            return self._answering
        before = self._before
        return None if before is None or before.response_complete else before

    def _start_head_timer(self) -> None:
        """Start the timer of a head, unless it runs: further segments do not extend the time."""
        if self._head_timer is None:
            self._head_timer = self.loop.call_later(
                self._limits.request_timeout_s, self._on_slow_head
            )

    def _stop_head_timer(self) -> None:
        if self._head_timer is not None:
            self._head_timer.cancel()
            self._head_timer = None

    def _stop_body_timer(self) -> None:
        if self._body_timer is not None:
            self._body_timer.cancel()
            self._body_timer = None

    def _expect_body(self, cycle: RequestResponseCycle, received: int) -> None:
        """Bound the time and the size of a body that is incomplete."""
        if self._body_timer is None:
            self._start_body_timer()
        self._body_bytes += received
        if self._body_bytes > MAX_BODY_BYTES and not cycle.response_started:
            self._refuse(LONG_BODY())

    def _start_body_timer(self) -> None:
        self._body_timer = self.loop.call_later(self._limits.request_timeout_s, self._on_slow_body)

    def _on_slow_head(self) -> None:
        self._head_timer = None
        if self._refused:
            return  # the connection is being closed
        if self._state is State.HEAD:
            self._refuse(SLOW_HEAD())
        else:
            self._close()

    def _on_slow_body(self) -> None:
        self._body_timer = None
        if self._refused or self._state is not State.BODY:
            return
        if self._answered_first() is not None:  # nothing is read while it is answered
            self._start_body_timer()
        elif not self.cycle.response_started:
            self._refuse(SLOW_BODY())

    def _refuse(self, refusal: EdgeError) -> None:
        """Answer with a problem, end the request's task, and close the connection.

        While an earlier request of the connection is being answered, the caller would take the refusal
        for its answer. So the connection is closed after that answer instead, without a refusal.
        """
        self._refused = True
        if self.transport.is_closing():
            return
        if (before := self._answered_first()) is not None:
            if self.pipeline and self.pipeline[0][0] is not before:
                self.pipeline.popleft()  # the refused request
            before.keep_alive = False
            return
        if (cycle := self._answering) is not None:
            cycle.disconnected = True
            cycle.message_event.set()
        self.transport.write(response(refusal, *self._known_of_request()))
        if self.transport.can_write_eof():
            self.transport.write_eof()
        self.loop.call_later(LINGER_S, self.transport.close)

    def _known_of_request(self) -> tuple[str, list[tuple[bytes, bytes]]]:
        """Return the id of the request that is refused, and the headers of every response to it."""
        scope: Any = self.scope
        if self._state is State.BODY and "call" in scope and self._answering is not None:
            return scope["call"].request_id, scope["call"].response_headers
        headers = headers_of([] if self._state is State.IDLE else scope["headers"])
        request_id = request_id_of(headers) or IdSource().request_id()
        cors = [] if self._cors is None else self._cors.headers(headers)
        return request_id, [(b"x-request-id", request_id.encode()), *cors]
