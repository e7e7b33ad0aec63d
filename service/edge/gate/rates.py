"""Rate limits: a fixed window for each key, counted here or in a Redis that processes share."""

import asyncio
import time
from collections.abc import Callable
from functools import lru_cache
from typing import Any, Final, NamedTuple, TypeVar

import limits
from limits.aio.storage import RedisStorage

from service.logs import get_logger

MAX_WINDOWS: Final = 100_000
"""Counters kept in memory before those of past windows are thrown away."""

STORAGE_TIMEOUT_S: Final = 0.25
"""A call waits no longer for the count."""
COMMAND_TIMEOUT_S: Final = 1.0
"""After which a command counts as failed; it may be carried out later all the same."""
LOOK_EVERY_S: Final = 1.0
"""While Redis is unreachable, a command is sent this often."""

Counter = tuple[str, int, int]
"""A key's id, a window's length in seconds, and its number since 1970."""
T = TypeVar("T")

log = get_logger(__name__)


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
        self._counts: dict[Counter, int] = {}

    async def hit(self, key_id: str, rate: str) -> Quota:
        """Count a call and return where the key stands."""
        limit, window_s = parse_rate(rate)
        number = int(self._clock() // window_s)
        counter = (key_id, window_s, number)
        count = self._counts.get(counter, 0) + 1
        if count == 1 and len(self._counts) >= MAX_WINDOWS:
            self._counts = _without_past(self._counts, self._clock())
        self._counts[counter] = count
        return Quota(limit, max(limit - count, 0), (number + 1) * window_s, window_s, count > limit)

    async def close(self) -> None:
        """Nothing is open."""


class _Batch:
    """Calls that are told to Redis with one command."""

    __slots__ = ("before", "size")

    def __init__(self) -> None:
        self.size = 0
        self.before: asyncio.Future[int | None] = asyncio.get_running_loop().create_future()
        """The shared count before the first of them; None: the command has failed."""


class _Window:
    """One key's calls in one window."""

    __slots__ = ("batch", "known", "sending")

    def __init__(self) -> None:
        self.known = 0
        """Those that this process knows of: what Redis told last, and its own since."""
        self.batch = _Batch()
        """Those that Redis has not been told."""
        self.sending: asyncio.Task[None] | None = None


class SharedLimiter:
    """Counts in Redis, for all processes together, by the `limits` library: one round trip a call.

    While Redis is slow or unreachable, a process counts on from what Redis told last, and callers do
    not wait. What Redis has not been told is added to the shared count by the next command, of which
    one is in flight for each key: the calls that arrive meanwhile share the next.
    """

    def __init__(self, url: str, on_away: Callable[[bool], None] = lambda _: None) -> None:
        self._storage = RedisStorage(
            f"async+{_not_strict(url)}",
            implementation="redispy",
            socket_timeout=2 * COMMAND_TIMEOUT_S,
            socket_connect_timeout=2 * COMMAND_TIMEOUT_S,
        )
        errors = self._storage.base_exceptions
        self._errors: tuple[type[Exception], ...] = (
            *(errors if isinstance(errors, tuple) else (errors,)),
            OSError,
            TimeoutError,
        )
        self._windows: dict[Counter, _Window] = {}
        self._on_away = on_away
        self._is_away = False
        self._look_at = 0.0

    async def hit(self, key_id: str, rate: str) -> Quota:
        """Count a call and return where the key stands."""
        limit, window_s = parse_rate(rate)
        counter = (key_id, window_s, int(time.time() // window_s))
        window = self._windows.get(counter)
        if window is None:
            if len(self._windows) >= MAX_WINDOWS:
                self._windows = _without_past(self._windows, time.time())
            window = self._windows[counter] = _Window()
        window.known += 1
        window.batch.size += 1
        count, batch, place = window.known, window.batch, window.batch.size
        self._send(counter, window)
        if not self._is_away and (before := await self._told(batch)) is not None:
            count = max(count, before + place)
        reset_at = (counter[2] + 1) * window_s
        return Quota(limit, max(limit - count, 0), reset_at, window_s, count > limit)

    async def close(self) -> None:
        """End what is being sent, and close the connections."""
        tasks = [each.sending for each in self._windows.values() if each.sending is not None]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        bridge: Any = self._storage.bridge  # which of three clients it has, its type does not say
        await bridge.get_connection().aclose()

    def _send(self, counter: Counter, window: _Window) -> None:
        """See that Redis is told of the window's calls; once a second while it is unreachable."""
        if window.sending is not None and not window.sending.done():
            return  # it goes on with what has come meanwhile
        now = time.monotonic()
        if not self._is_away or now >= self._look_at:
            self._look_at = now + LOOK_EVERY_S
            window.sending = asyncio.create_task(self._tell_redis(counter, window))

    async def _told(self, batch: _Batch) -> int | None:
        """Wait for the shared count, but no longer than a call may."""
        try:
            async with asyncio.timeout(STORAGE_TIMEOUT_S):
                return await asyncio.shield(batch.before)
        except TimeoutError:
            self._note(is_away=True, error="it does not answer in time")
            return None

    async def _tell_redis(self, counter: Counter, window: _Window) -> None:
        """Add the window's calls to the shared count, until all of them are told."""
        key_id, window_s, number = counter
        while window.batch.size:
            batch, window.batch = window.batch, _Batch()
            began = time.monotonic()
            try:
                async with asyncio.timeout(COMMAND_TIMEOUT_S):
                    count = await self._storage.incr(
                        f"{key_id}/{window_s}/{number}", window_s, amount=batch.size
                    )
            except self._errors as error:
                if not isinstance(error, TimeoutError):  # else Redis may yet carry it out
                    window.batch.size += batch.size
                batch.before.set_result(None)
                self._note(is_away=True, error=str(error) or type(error).__name__)
                return
            window.known = max(window.known, count + window.batch.size)
            batch.before.set_result(count - batch.size)
            self._note(is_away=time.monotonic() - began > STORAGE_TIMEOUT_S, error="it is slow")

    def _note(self, *, is_away: bool, error: str) -> None:
        """Say it once when it changes."""
        if is_away == self._is_away:
            return
        self._is_away = is_away
        self._on_away(is_away)
        if is_away:
            log.warning("rate_limits.storage_away", error=error)
        else:
            log.warning("rate_limits.storage_back")


def _without_past(windows: dict[Counter, T], now: float) -> dict[Counter, T]:
    """Return the windows that have not ended."""
    return {
        counter: each for counter, each in windows.items() if (counter[2] + 1) * counter[1] > now
    }


Limiter = MemoryLimiter | SharedLimiter


def make_limiter(storage: str, on_away: Callable[[bool], None] = lambda _: None) -> Limiter:
    """Return the limiter for `memory` or a Redis URL; `on_away` is told when Redis is unreachable or back."""
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
