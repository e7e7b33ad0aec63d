"""The ASGI app: it checks the key and the rate limit, finds the route, sends the reply, and counts it."""

import logging
import time
from collections.abc import Sequence
from typing import Final

from starlette.applications import Starlette
from starlette.routing import BaseRoute, Match, Route
from starlette.types import Lifespan, Receive, Scope, Send
from structlog.contextvars import bind_contextvars

from service.core.errors import Busy, Overloaded, Refusal, Unavailable
from service.core.ids import IdSource
from service.core.writes import Reply
from service.edge.calls.body import Disconnected
from service.edge.calls.call import Call
from service.edge.calls.places import Places
from service.edge.calls.problems import EdgeError, problem_reply, unknown_path
from service.edge.gate.cors import Cors, is_preflight
from service.edge.gate.keys import KeyRing
from service.edge.gate.metrics import Metrics
from service.edge.gate.rates import Limiter, Quota
from service.logs import get_logger
from service.measures import Measures
from service.supervision import LastingProblem

JSON_HEADER: Final = (b"content-type", b"application/json")
REPLAYED_HEADER: Final = (b"idempotent-replayed", b"true")

log = get_logger(__name__)


class Gate(Starlette):
    """Answers every request itself; Starlette's router runs the lifespan.

    Paths under /v1/ need a key. Only this class sends responses.
    """

    def __init__(  # noqa: PLR0913 - each is a part of the service
        self,
        routes: Sequence[BaseRoute],
        lifespan: Lifespan["Gate"],
        *,
        ids: IdSource,
        keys: KeyRing,
        limiter: Limiter,
        default_rate: str,
        metrics: Metrics,
        measures: Measures,
        cors: Cors | None = None,
    ) -> None:
        super().__init__(routes=routes, lifespan=lifespan)
        self._routes = [route for route in routes if isinstance(route, Route)]
        self._ids = ids
        self._keys = keys
        self._limiter = limiter
        self._default_rate = default_rate
        self._metrics = metrics
        self._measures = measures
        self._cors = cors
        self._places = Places(measures)
        self._unavailable = LastingProblem(log, "http.unavailable", "http.available")
        self._overloaded = LastingProblem(log, "http.overloaded", "http.not_overloaded")

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request. Each response has the request's id, and the quota if the key is known."""
        if scope["type"] != "http":
            await self.router(scope, receive, send)
            return
        started = time.perf_counter()
        call = Call(
            scope["method"], scope["path"], scope["query_string"], scope["headers"], self._ids
        )
        scope["call"] = call
        bind_contextvars(request_id=call.request_id)  # for every log line of the request
        try:
            reply = await self._answer(call, scope, receive)
        except Disconnected:
            return
        except Exception as error:  # noqa: BLE001 - any error is answered as a problem
            self._log_failure(call, error)
            reply = problem_reply(error, call.request_id)
        headers = reply_headers(call, reply)
        await send({"type": "http.response.start", "status": reply.status, "headers": headers})
        body = b"" if call.method == "HEAD" else reply.body
        await send({"type": "http.response.body", "body": body})
        requests, seconds = self._metrics[call.method, call.route, reply.status]
        requests.inc()
        seconds.observe(time.perf_counter() - started)
        if log.isEnabledFor(logging.DEBUG):
            _log_access(call, reply.status, started)

    async def _answer(self, call: Call, scope: Scope, receive: Receive) -> Reply:
        """Check the key and the rate limit, then let the path's endpoint answer."""
        if self._cors is not None:
            preflight = is_preflight(call)
            call.response_headers += self._cors.headers(call.headers, preflight=preflight)
            if preflight:
                return Reply(204, b"")
        if not call.path.startswith("/v1/"):
            return await self._routed(call, scope, receive)
        await self._admit(call)
        call.places = self._places
        reply = await self._routed(call, scope, receive)
        if call.method != "OPTIONS":  # OPTIONS needs neither a place nor the database
            if self._unavailable.lasts:
                self._unavailable.note_success()
            if self._overloaded.lasts:
                self._overloaded.note_success()
        return reply

    async def _admit(self, call: Call) -> None:
        """Check the key and its rate limit, and note the quota for the response."""
        key = call.key = await self._keys.authenticate(call.headers)
        quota = await self._limiter.hit(key.id, key.rate_limit or self._default_rate)
        call.response_headers += rate_headers(quota)
        if quota.exceeded:
            self._measures.limited(key.id)
            wait_s = max(quota.reset_at - int(time.time()), 1)
            raise EdgeError(
                "rate_limited",
                f"the limit of {quota.limit} calls in {quota.window_s} s is used up: wait {wait_s} s",
                headers=((b"retry-after", b"%d" % wait_s),),
            )

    async def _routed(self, call: Call, scope: Scope, receive: Receive) -> Reply:
        """Find the path's route and let it answer.

        A path with an escaped slash is refused, because the decoded path would be another one.

        Raises:
            EdgeError: `not_found`: no route has this path.
        """
        raw_path: bytes = scope["raw_path"]
        if b"%" not in raw_path or b"%2F" not in raw_path.upper():
            for route in self._routes:
                match, found = route.matches(scope)
                if match is not Match.NONE:
                    call.route, call.params = route.path, found["path_params"]
                    reply: Reply = await route.endpoint(call, receive)
                    return reply
        raise unknown_path(call.path)

    def _log_failure(self, call: Call, error: Exception) -> None:
        """Log faults of the service, and an unreachable database once until a call succeeds."""
        if isinstance(error, Overloaded):
            self._overloaded.note_failure(error, method=call.method, path=call.path)
        elif isinstance(error, Unavailable):
            if not isinstance(error, Busy):
                self._measures.database_unreachable = True
            self._unavailable.note_failure(error, method=call.method, path=call.path)
        elif not isinstance(error, Refusal | EdgeError):
            log.error("http.failed", exc_info=error, method=call.method, path=call.path)


def _log_access(call: Call, status: int, started: float) -> None:
    log.debug(
        "http.served",
        method=call.method,
        path=call.path,
        status=status,
        ms=round((time.perf_counter() - started) * 1000, 2),
    )


def reply_headers(call: Call, reply: Reply) -> list[tuple[bytes, bytes]]:
    """Return the headers of the response."""
    headers = [*call.response_headers, *reply.headers]
    if reply.revision is not None:
        headers.append((b"etag", b'"%d"' % reply.revision))  # RFC 9110, section 8.8.3
    if reply.body:
        headers.append((b"content-length", b"%d" % len(reply.body)))
        if b"content-type" not in dict(reply.headers):
            headers.append(JSON_HEADER)
    if reply.replayed:
        headers.append(REPLAYED_HEADER)
    return headers


def rate_headers(quota: Quota) -> list[tuple[bytes, bytes]]:
    """Return the quota in both families: X-RateLimit-*, and draft-ietf-httpapi-ratelimit-headers."""
    limit, remaining, reset_at, window_s, _ = quota
    wait_s = max(reset_at - int(time.time()), 0)
    return [
        (b"x-ratelimit-limit", b"%d" % limit),
        (b"x-ratelimit-remaining", b"%d" % remaining),
        (b"x-ratelimit-reset", b"%d" % reset_at),
        (b"ratelimit-policy", b'"default";q=%d;w=%d' % (limit, window_s)),
        (b"ratelimit", b'"default";r=%d;t=%d' % (remaining, wait_s)),
    ]
