"""The way in and out of every request: its id, its key, its rate limit, its errors, its metrics."""

import logging
import time
from http import HTTPStatus
from typing import Final

from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send
from structlog.contextvars import bind_contextvars

from service.core.errors import Refusal, Unavailable
from service.core.requests import Reply
from service.edge.calls import problems
from service.edge.calls.body import Disconnected
from service.edge.calls.call import Call
from service.edge.calls.endpoint import send_response
from service.edge.calls.headers import check_host, fields_of
from service.edge.calls.problems import EdgeError
from service.edge.gate.cors import Cors, is_preflight
from service.edge.gate.deadlines import Deadlines
from service.edge.gate.keys import KeyRing
from service.edge.gate.metrics import Metrics
from service.edge.gate.rates import Limiter, rate_headers
from service.logs import get_logger
from service.supervision import LastingProblem

JSON_HEADER: Final = (b"content-type", b"application/json")
REPLAYED_HEADER: Final = (b"idempotent-replayed", b"true")

log = get_logger(__name__)


class Gate:
    """ASGI middleware around the router: nothing under /v1 is reached without a key."""

    def __init__(  # noqa: PLR0913 - the parts, put together in one place
        self,
        app: ASGIApp,
        *,
        keys: KeyRing,
        limiter: Limiter,
        default_rate: str,
        metrics: Metrics,
        cors: Cors | None = None,
    ) -> None:
        self._app = app
        self._keys = keys
        self._limiter = limiter
        self._default_rate = default_rate
        self._metrics = metrics
        self._cors = cors
        self._deadlines = Deadlines()
        self._unavailable = LastingProblem(log, "http.unavailable", "http.available")

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request; every response carries its id, and those to a known key their quota."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        started = time.perf_counter()
        fields = fields_of(scope["headers"])
        call = scope["call"] = Call(scope["method"], scope["path"], scope["query_string"], fields)
        bind_contextvars(request_id=call.request_id)  # for every log line of the request
        response = _Response(send, call.request_id)
        call.response_headers = response.headers
        try:
            preflight = self._cors is not None and is_preflight(call)
            if self._cors is not None:
                response.headers += self._cors.headers(fields, preflight=preflight)
            check_host(fields, scope["http_version"])
            if preflight:
                await send_response(response.send, 204, [], b"")
                return
            if call.path.startswith("/v1/"):
                await self._admit(call, response)
            _check_encoded(scope["raw_path"])
            await self._app(scope, receive, response.send)
            if call.reply is not None:
                self._unavailable.over()
                await _send_reply(call, call.reply, response)
        except Disconnected:
            return
        except Exception as error:  # noqa: BLE001 - whatever it is, the caller gets a problem
            self._log_failure(call, error)
            await _send_problem(call, error, response)
        self._metrics.observe(scope, response.status, time.perf_counter() - started)
        _log_access(call, response.status, started)

    def _log_failure(self, call: Call, error: Exception) -> None:
        """Log what an operator has to know; an unreachable database once, until a call succeeds."""
        if isinstance(error, Unavailable):
            self._unavailable.met(error, method=call.method, path=call.path)
        elif not isinstance(error, Refusal | EdgeError | HTTPException):
            log.error("http.failed", exc_info=error, method=call.method, path=call.path)

    async def _admit(self, call: Call, response: "_Response") -> None:
        """Let the call in if its key is good and has calls left in this window."""
        call.deadlines = self._deadlines
        key = call.key = await self._keys.authenticate(call.headers)
        quota = await self._limiter.hit(key.id, key.rate_limit or self._default_rate)
        response.headers += rate_headers(quota)
        if quota.exceeded:
            wait_s = max(quota.reset_at - int(time.time()), 1)
            raise EdgeError(
                "rate_limited",
                f"the limit of {quota.limit} calls in {quota.window_s} s is used up: wait {wait_s} s",
                headers=[(b"retry-after", b"%d" % wait_s)],
            )


def _check_encoded(path: bytes) -> None:
    """Let no id bring a slash of its own: decoded, it would name another path.

    Raises:
        HTTPException: 404.
    """
    if b"%" in path and b"%2F" in path.upper():
        raise HTTPException(404)


class _Response:
    """What is added to a response on its way out, and what is known of it afterwards."""

    __slots__ = ("headers", "send_on", "status")

    def __init__(self, send: Send, request_id: str) -> None:
        self.send_on = send
        self.headers = [(b"x-request-id", request_id.encode())]
        self.status = 0

    async def send(self, message: Message) -> None:
        """Pass on a message of an app that sends its response itself."""
        if message["type"] == "http.response.start":
            self.status = message["status"]
            message["headers"] = [*message["headers"], *self.headers]
        await self.send_on(message)


async def _send_reply(call: Call, reply: Reply, response: _Response) -> None:
    """Send what an endpoint answered: the hot way out."""
    response.status = reply.status
    headers = response.headers
    if reply.status != HTTPStatus.NOT_MODIFIED:  # it has no content (RFC 9110, section 15.4.5)
        headers.append(JSON_HEADER)
        headers.append((b"content-length", b"%d" % len(reply.body)))
    headers += reply.headers
    if reply.replayed:
        headers.append(REPLAYED_HEADER)
    body = b"" if call.method == "HEAD" else reply.body
    await response.send_on(
        {"type": "http.response.start", "status": reply.status, "headers": headers}
    )
    await response.send_on({"type": "http.response.body", "body": body})


async def _send_problem(call: Call, error: Exception, response: _Response) -> None:
    if isinstance(error, HTTPException):  # Starlette's router found no route
        error = EdgeError(
            "not_found", f"there is no {call.path}; see /openapi.json for what there is"
        )
    problem = problems.problem(error, call.request_id)
    if response.status:
        raise error  # too late to say it: the response has begun
    headers = [(b"content-type", problems.CONTENT_TYPE), *problems.headers_of(error)]
    await send_response(
        response.send,
        problem.status,
        headers,
        problems.encode(problem),
        with_body=call.method != "HEAD",
    )


def _log_access(call: Call, status: int, started: float) -> None:
    if not log.isEnabledFor(logging.DEBUG):
        return
    log.debug(
        "http.served",
        method=call.method,
        path=call.path,
        status=status,
        ms=round((time.perf_counter() - started) * 1000, 2),
    )
