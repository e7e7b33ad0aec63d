"""Rate limits: a fixed window for each key, counted here or in a Redis that processes share."""

import asyncio
import logging
import time
from collections.abc import Callable
from functools import lru_cache
from typing import Any, Final, NamedTuple

import limits
from limits.aio.storage import RedisStorage

MAX_WINDOWS: Final = 100_000
"""Counters kept in memory before those of past windows are thrown away."""

STORAGE_TIMEOUT_S: Final = 0.25
"""A call waits no longer for the count."""
LOOK_EVERY_S: Final = 1.0

log = logging.getLogger(__name__)


class Quota(NamedTuple):
    """Where a key stands in its window."""

    limit: int
    remaining: int
    reset_at: int
    """Seconds since 1970 at which the window ends."""
    window_s: int
    exceeded: bool


class MemoryLimiter:
    """Counts in this process: what the hot path needs of a limiter, and no more."""

    def __init__(self, clock: Callable[[], float] = time.time) -> None:
        self._clock = clock
        self._counts: dict[tuple[str, int, int], int] = {}

    async def hit(self, key_id: str, rate: str) -> Quota:
        """Count a call and return where the key stands."""
        limit, window_s = parse_rate(rate)
        number = int(self._clock() // window_s)
        counter = (key_id, window_s, number)
        count = self._counts.get(counter, 0) + 1
        if count == 1 and len(self._counts) >= MAX_WINDOWS:
            self._forget_past_windows()
        self._counts[counter] = count
        return Quota(limit, max(limit - count, 0), (number + 1) * window_s, window_s, count > limit)

    async def close(self) -> None:
        """Nothing is open."""

    def _forget_past_windows(self) -> None:
        now = self._clock()
        self._counts = {c: n for c, n in self._counts.items() if (c[2] + 1) * c[1] > now}


class SharedLimiter:
    """Counts in Redis, for all processes together, by the `limits` library: one round trip a call.

    While Redis is away each process counts by itself, and looks once a second whether it is back.
    """

    def __init__(self, url: str, on_away: Callable[[bool], None] = lambda _: None) -> None:
        self._storage = RedisStorage(
            f"async+{_not_strict(url)}",
            implementation="redispy",
            socket_timeout=STORAGE_TIMEOUT_S,
            socket_connect_timeout=STORAGE_TIMEOUT_S,
        )
        errors = self._storage.base_exceptions
        self._away: tuple[type[Exception], ...] = (
            *(errors if isinstance(errors, tuple) else (errors,)),
            OSError,
            TimeoutError,
        )
        self._alone = MemoryLimiter()
        self._on_away = on_away
        self._is_away = False
        self._look_at = 0.0

    async def hit(self, key_id: str, rate: str) -> Quota:
        """Count a call and return where the key stands."""
        if self._is_away and time.monotonic() < self._look_at:
            return await self._alone.hit(key_id, rate)
        limit, window_s = parse_rate(rate)
        number = int(time.time() // window_s)
        self._look_at = time.monotonic() + LOOK_EVERY_S  # one call looks, others go by
        try:
            async with asyncio.timeout(STORAGE_TIMEOUT_S):
                count = await self._storage.incr(f"{key_id}/{window_s}/{number}", window_s)
        except self._away as error:
            self._tell(is_away=True, error=str(error) or type(error).__name__)
            return await self._alone.hit(key_id, rate)
        self._tell(is_away=False)
        return Quota(limit, max(limit - count, 0), (number + 1) * window_s, window_s, count > limit)

    async def close(self) -> None:
        """Close the connections."""
        bridge: Any = self._storage.bridge  # which of three clients it has, its type does not say
        await bridge.get_connection().aclose()

    def _tell(self, *, is_away: bool, error: str = "") -> None:
        """Say it once when it changes."""
        if is_away == self._is_away:
            return
        self._is_away = is_away
        self._on_away(is_away)
        if is_away:
            log.warning("rate_limits.storage_away", extra={"error": error})
        else:
            log.warning("rate_limits.storage_back")


Limiter = MemoryLimiter | SharedLimiter


def make_limiter(storage: str, on_away: Callable[[bool], None] = lambda _: None) -> Limiter:
    """Return the limiter for `memory` or a Redis URL; `on_away` is told when that one is away or back."""
    return MemoryLimiter() if storage == "memory" else SharedLimiter(storage, on_away)


def _not_strict(url: str) -> str:
    """Let TLS accept what it does before Python 3.13: a private CA that lacks extensions of RFC 5280."""
    if not url.startswith("rediss:") or "ssl_exclude_verify_flags" in url:
        return url
    return f"{url}{'&' if '?' in url else '?'}ssl_exclude_verify_flags=VERIFY_X509_STRICT"


@lru_cache(maxsize=1024)
def parse_rate(rate: str) -> tuple[int, int]:
    """Return limit and window in seconds of a rate like "1000/minute"."""
    item = limits.parse(rate)
    return item.amount, item.get_expiry()


def rate_headers(quota: Quota) -> list[tuple[bytes, bytes]]:
    """Return both families of headers: X-RateLimit-*, and draft-ietf-httpapi-ratelimit-headers."""
    limit, remaining, reset_at, window_s, _ = quota
    wait_s = max(reset_at - int(time.time()), 0)
    return [
        (b"x-ratelimit-limit", b"%d" % limit),
        (b"x-ratelimit-remaining", b"%d" % remaining),
        (b"x-ratelimit-reset", b"%d" % reset_at),
        (b"ratelimit-policy", b'"default";q=%d;w=%d' % (limit, window_s)),
        (b"ratelimit", b'"default";r=%d;t=%d' % (remaining, wait_s)),
    ]
