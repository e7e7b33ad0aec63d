"""Cross-origin calls from browsers: which origins may read responses (the Fetch standard's CORS)."""

from collections.abc import Iterable, Mapping
from typing import Final

from service.edge.calls.call import Call

METHODS: Final = b"GET, POST, PUT, PATCH, DELETE"
HEADERS: Final = (
    b"Authorization, X-API-KEY, Content-Type, Idempotency-Key, If-Match, If-None-Match, "
    b"X-Request-ID, traceparent, tracestate"
)
EXPOSED: Final = (
    b"ETag, Idempotent-Replayed, Link, Next-Cursor, RateLimit, RateLimit-Policy, Retry-After, "
    b"WWW-Authenticate, X-RateLimit-Limit, X-RateLimit-Remaining, X-RateLimit-Reset, X-Request-ID"
)
MAX_AGE_S: Final = 7200
"""Time for which a browser caches the answer to a preflight: the most that Chromium takes."""


class Cors:
    """The allowed origins. Keys are sent in headers, never in cookies, so credentials are not allowed."""

    def __init__(self, origins: Iterable[str]) -> None:
        self._origins = {origin.encode() for origin in origins}

    def headers(
        self, request: Mapping[bytes, bytes], *, preflight: bool = False
    ) -> list[tuple[bytes, bytes]]:
        """Return the CORS headers of the response to a request with these headers."""
        origin = request.get(b"origin", b"")
        headers = [(b"vary", b"Origin")]
        if not origin or not {origin, b"*"} & self._origins:
            return headers
        headers.append((b"access-control-allow-origin", origin))
        if preflight:
            headers += [
                (b"access-control-allow-methods", METHODS),
                (b"access-control-allow-headers", HEADERS),
                (b"access-control-max-age", b"%d" % MAX_AGE_S),
            ]
        else:
            headers.append((b"access-control-expose-headers", EXPOSED))
        return headers


def is_preflight(call: Call) -> bool:
    """Whether this is a CORS preflight, which a browser sends without a key."""
    return call.method == "OPTIONS" and b"access-control-request-method" in call.headers
