"""Limits on callers that uvicorn's HTTP protocol lacks: how much they send, and how slowly.

The head of the first request has to be complete within the request time-out after the connection was
made, a later head within the same time after its first byte, and a body within the same time after its
head. uvicorn's keep-alive timer bounds the idle time between requests. A request that breaks a limit,
or that the parser cannot read, is answered with a problem, and the connection is closed.

The parser's callbacks set the connection's State. The timer is started only for a head or a body that
is incomplete after a segment, so a later request that arrives in one segment does not start it.
"""

import asyncio
from enum import Enum, auto
from functools import partial
from typing import Any, Final, cast

import httptools
from msgspec import Struct
from uvicorn.config import Config
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle
from uvicorn.server import ServerState

from service.core.ids import IdSource
from service.edge.calls.call import headers_of, request_id_of
from service.edge.calls.problems import EdgeError
from service.edge.gate.cors import Cors
from service.server import refusals
from service.server.joined import JoinedWrites
from service.stopping import Stopping

LINGER_S: Final = 1.0
"""Time for the caller to read its refusal. Closing a socket with unread bytes resets the connection,
which discards what the caller has not read."""
IDLE_CLOSE_S: Final = 0.5
"""Time from the end of the drain to the closing of an idle connection: a request may be on its way."""


class Limits(Struct, frozen=True):
    """The limits that are settings."""

    request_timeout_s: float
    """Time for a head, and again for a body."""
    max_connections: int
    """Open connections of one process."""


class State(Enum):
    """What the parser is reading."""

    IDLE = auto()
    """Nothing: the latest request has been read whole, or there was none."""
    HEAD = auto()
    BODY = auto()


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
        """Bytes of the segments with parts of the head: an upper bound of its size."""
        self._body_bytes = 0
        """In the same way of the body."""
        self._timer: asyncio.TimerHandle | None = None
        """Runs while a head or a body is incomplete."""
        self._refused = False
        self._earlier: RequestResponseCycle | None = None
        """The request that was being answered when the latest one's head was complete."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override] # as uvicorn has it
        """Expect a request, unless there are too many callers."""
        super().connection_made(transport)
        if len(self.connections) > self._limits.max_connections:
            self._refuse(refusals.FULL())
        else:
            self._start_timer()
        if self._stopping.drained:
            self.shutdown()

    def connection_lost(self, exc: Exception | None) -> None:
        """Stop the timer."""
        super().connection_lost(exc)
        self._stop_timer()

    def data_received(self, data: bytes) -> None:
        """Let the parser read a segment, then bound the time and size of a head or body that goes on."""
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
        elif self._head_bytes > refusals.MAX_HEAD_BYTES:
            self._refuse(refusals.TOO_LARGE())
            return
        if self._state is State.IDLE and answering is not None:
            return
        self._start_timer()
        if self._state is State.BODY and answering is not None:
            self._body_bytes += len(data)
            if self._body_bytes > refusals.MAX_BODY_BYTES and not answering.response_started:
                self._refuse(refusals.LONG_BODY())

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
            cause = error.__context__  # the error that a callback raised
            self._refuse(cause if isinstance(cause, EdgeError) else refusals.GARBAGE())

    def _head_without_upgrade(self) -> bytes:
        method, version = self.parser.get_method(), self.parser.get_http_version().encode()
        line = b"%b %b HTTP/%b\r\n" % (method, self.url, version)
        headers = [b"%b: %b\r\n" % header for header in self.headers if header[0] != b"upgrade"]
        return b"".join([line, *headers, b"\r\n"])

    def on_message_begin(self) -> None:
        """Note that a head has begun."""
        super().on_message_begin()
        self._state = State.HEAD

    def on_headers_complete(self) -> None:
        """Check the head, and let uvicorn start to answer the request.

        Raises:
            EdgeError: the head is refused. The parser raises an error with this one as its context.
        """
        if self.parser.should_upgrade():
            if self.parser.get_method() == b"CONNECT":
                raise refusals.GARBAGE()  # noqa: RSE102 - it is no class
            return  # the head is read again
        if self._head_bytes > refusals.MAX_HEAD_BYTES:  # other bytes of the segments count too
            refusals.check_size(self.url, self.headers)
        http_version = self.parser.get_http_version()
        refusals.check_host(self.headers, http_version)
        if self.url[:1] != b"/":
            self.url = refusals.origin_form(self.url)
        if http_version == "1.0":
            self.expect_100_continue = False  # RFC 9110, section 10.1.1
        self._earlier = self._answering
        transport, joined = self.transport, JoinedWrites(self.transport)
        self.transport = cast("asyncio.Transport", joined)  # for the cycle alone
        try:
            super().on_headers_complete()
        finally:  # uvicorn cannot read a target of 64 KiB, for example
            self.transport = transport
        self.cycle.on_response = partial(self._on_written, joined)
        self.headers = []  # a new list for trailers, so that they do not become headers
        self._state = State.BODY
        self._body_bytes = 0
        if self._timer is not None:
            self._stop_timer()

    def on_message_complete(self) -> None:
        """Note that the request has been read whole."""
        if not self.parser.should_upgrade():
            super().on_message_complete()
            self._state = State.IDLE
            if self._timer is not None:
                self._stop_timer()

    def _on_written(self, joined: JoinedWrites) -> None:
        """Write a head without a body, then let uvicorn begin the next request."""
        joined.flush()
        self.on_response_complete()

    def close_after_answer(self) -> None:
        """Send `Connection: close` with the answer to the last request that was read."""
        if (answering := self._answering) is not None:
            answering.keep_alive = False

    def shutdown(self) -> None:
        """Answer the request that has begun to arrive, then close. uvicorn calls it after the drain."""
        self.close_after_answer()
        self.loop.call_later(IDLE_CLOSE_S, self._close_if_idle)

    def _close_if_idle(self) -> None:
        if self._answering is None and self._state is not State.HEAD:
            self.transport.close()

    @property
    def _answering(self) -> RequestResponseCycle | None:
        """The latest request whose head was read, if its answer is not complete."""
        cycle: RequestResponseCycle | None = self.cycle  # uvicorn's type omits None
        return None if cycle is None or cycle.response_complete else cycle

    def _answered_before(self) -> RequestResponseCycle | None:
        """Return the earlier request whose answer has to come before a refusal of the latest one."""
        if self._state is not State.BODY:
            return self._answering
        earlier = self._earlier
        return None if earlier is None or earlier.response_complete else earlier

    def _start_timer(self) -> None:
        """Start the timer, unless it runs: further segments do not extend the time."""
        if self._timer is None:
            self._timer = self.loop.call_later(self._limits.request_timeout_s, self._on_timeout)

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _on_timeout(self) -> None:
        self._timer = None
        if self._refused:
            return  # the connection is being closed
        if self._state is State.HEAD:
            self._refuse(refusals.SLOW_HEAD())
        elif self._state is State.IDLE or self._answering is None:
            self.transport.close()
        elif self._answered_before() is not None:  # nothing is read until that answer is complete
            self._start_timer()
        elif not self.cycle.response_started:
            self._refuse(refusals.SLOW_BODY())

    def _refuse(self, refusal: EdgeError) -> None:
        """Answer with a problem, end the request's task, and close the connection.

        While an earlier request of the connection is being answered, the caller would take the refusal
        for its answer. So the connection is closed after that answer instead, without a refusal.
        """
        self._refused = True
        if self.transport.is_closing():
            return
        if (earlier := self._answered_before()) is not None:
            if self.pipeline and self.pipeline[0][0] is not earlier:
                self.pipeline.popleft()  # the refused request
            earlier.keep_alive = False
            return
        if (cycle := self._answering) is not None:
            cycle.disconnected = True
            cycle.message_event.set()
        self.transport.write(refusals.response(refusal, *self._id_and_headers()))
        if self.transport.can_write_eof():
            self.transport.write_eof()
        self.loop.call_later(LINGER_S, self.transport.close)

    def _id_and_headers(self) -> tuple[str, list[tuple[bytes, bytes]]]:
        """Return the id of the request that is refused, and the headers of every response to it."""
        scope: Any = self.scope
        if self._state is State.BODY and "call" in scope and self._answering is not None:
            return scope["call"].request_id, scope["call"].response_headers
        headers = headers_of([] if self._state is State.IDLE else scope["headers"])
        request_id = request_id_of(headers) or IdSource().request_id()
        cors = [] if self._cors is None else self._cors.headers(headers)
        return request_id, [(b"x-request-id", request_id.encode()), *cors]
