"""Limits on callers that uvicorn's HTTP protocol lacks: how much they send, and how slowly.

A caller has to send the head of its first request within the request time-out, counted from the
connection's beginning, and a later head within the same time from its first byte. Each body has as
long again. Between requests a connection may be idle for longer: that is uvicorn's keep-alive timer.
What cannot be read is answered as a problem, and the connection is closed.

The parser's callbacks say where the connection is: State. Timers run only for what is incomplete
when a segment has been read, so a request that arrives in one segment starts none.
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
"""Time between the end of the drain and the closing of an idle connection, for a request in flight."""


class Limits(Struct, frozen=True):
    """What can be set."""

    request_timeout_s: float
    """For a head to come, and again for a body."""
    max_connections: int
    """Of one process."""


class State(Enum):
    """What the parser has read of the latest request."""

    IDLE = auto()
    """All of it, or there has been none."""
    HEAD = auto()
    """A part of its head."""
    BODY = auto()
    """Its head, and perhaps a part of its body."""


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
        self._stop_head_timer()
        if self._state is State.BODY:
            self._expect_body(answering, len(data))

    def _feed(self, data: bytes) -> None:
        """Let the parser read; an Upgrade, which a server may ignore (RFC 9110, section 7.8), is ignored.

        Java's HttpClient and `curl --http2` offer HTTP/2 with every first request. Behind the head of
        such an offer the parser reads no body, and httptools has nothing to change that. So a new
        parser reads the head again, without Upgrade, and then the rest of the bytes.
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
        """Let the request be answered.

        Raises:
            EdgeError: the head is refused. The parser raises its own error, with this one as context.
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
        self.headers = []  # trailers are dropped: merged, they would pass for headers of the head
        self._state = State.BODY
        self._stop_body_timer()
        self._body_bytes = 0

    def on_message_complete(self) -> None:
        """Take note that the request has been read."""
        if not self.parser.should_upgrade():
            super().on_message_complete()
            self._state = State.IDLE

    def close_after_answer(self) -> None:
        """Announce in the answer to the last request that was read that the connection is closed."""
        if (answering := self._answering) is not None:
            answering.keep_alive = False

    def shutdown(self) -> None:
        """Answer what has begun to come, then close; nothing new is accepted any more."""
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
        """Give the caller the time of a request to send its head; further segments add nothing."""
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
        """Give the caller the time of a request to send its body, and room for what is around it."""
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
            return  # it is being closed already
        if self._state is State.HEAD:
            self._refuse(SLOW_HEAD())
        else:
            self._close()

    def _on_slow_body(self) -> None:
        self._body_timer = None
        if self._refused or self._state is not State.BODY:
            return
        if self._answered_first() is not None:  # while it is being answered, nothing is read
            self._start_body_timer()
        elif not self.cycle.response_started:
            self._refuse(SLOW_BODY())

    def _refuse(self, refusal: EdgeError) -> None:
        """Answer with a problem, end what was waiting for the rest, and close.

        While an earlier request of the connection is being answered, the refusal would be read as its
        answer: the connection is closed after that one instead, and its caller may repeat the later.
        """
        self._refused = True
        if self.transport.is_closing():
            return
        if (before := self._answered_first()) is not None:
            if self.pipeline and self.pipeline[0][0] is not before:
                self.pipeline.popleft()  # the one that is refused
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
