"""Rate limits: a fixed window for each key, counted here or in a Redis that processes share."""

import time
from collections.abc import Callable
from functools import lru_cache
from typing import Final, NamedTuple

import limits
from limits.aio.storage import RedisStorage
from limits.aio.strategies import FixedWindowRateLimiter

from service.core.errors import Unavailable

MAX_WINDOWS: Final = 100_000
"""Counters kept in memory before those of past windows are thrown away."""


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

    def _forget_past_windows(self) -> None:
        now = self._clock()
        self._counts = {c: n for c, n in self._counts.items() if (c[2] + 1) * c[1] > now}


class SharedLimiter:
    """Counts in Redis, for all processes together, by the `limits` library."""

    def __init__(self, url: str) -> None:
        self._limiter = FixedWindowRateLimiter(RedisStorage("async+" + url))

    async def hit(self, key_id: str, rate: str) -> Quota:
        """Count a call and return where the key stands.

        Raises:
            Unavailable: Redis is away.
        """
        item = limits.parse(rate)
        window_s = item.get_expiry()
        try:
            allowed = await self._limiter.hit(item, key_id)
            reset_at, remaining = await self._limiter.get_window_stats(item, key_id)
        except Exception as error:
            raise Unavailable("the storage of the rate limits is not available") from error
        return Quota(item.amount, remaining, int(reset_at), window_s, not allowed)


Limiter = MemoryLimiter | SharedLimiter


def make_limiter(storage: str) -> Limiter:
    """Return the limiter for `memory` or a Redis URL."""
    return MemoryLimiter() if storage == "memory" else SharedLimiter(storage)


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
