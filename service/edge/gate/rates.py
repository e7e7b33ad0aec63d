"""Rate limits: a fixed window for each key, counted in this process or in a shared Redis."""

import asyncio
import time
from collections.abc import Callable
from functools import lru_cache
from typing import Any, Final, NamedTuple, TypeVar

import limits
from limits.aio.storage import RedisStorage

from service.incident import Incident
from service.logs import first_line, get_logger
from service.supervision import QUIET_S

MAX_WINDOWS: Final = 100_000
"""Counters in memory. At this number, the counters of past windows are dropped."""

STORAGE_TIMEOUT_S: Final = 0.25
"""The longest time that a call waits for the shared count."""
COMMAND_TIMEOUT_S: Final = 1.0
"""Time after which a command counts as failed. Redis may still carry it out later."""
RETRY_S: Final = 1.0
"""Time between two commands while Redis is unreachable."""

WindowId = tuple[str, int, int]
"""A key's id, the length of its windows in seconds, and the number of windows since 1970."""
T = TypeVar("T")

log = get_logger(__name__)


class Quota(NamedTuple):
    """How many calls a key has left in its window."""

    limit: int
    remaining: int
    reset_at: int
    """Seconds since 1970 at which the window ends."""
    window_s: int
    exceeded: bool


class MemoryLimiter:
    """Counts the calls that this process serves."""

    def __init__(self, clock: Callable[[], float] = time.time) -> None:
        self._clock = clock
        self._counts: dict[WindowId, int] = {}

    async def hit(self, key_id: str, rate: str) -> Quota:
        """Count a call, and return the key's quota."""
        limit, window_s = parse_rate(rate)
        number = int(self._clock() // window_s)
        window_id = (key_id, window_s, number)
        count = self._counts.get(window_id, 0) + 1
        if count == 1 and len(self._counts) >= MAX_WINDOWS:
            self._counts = _without_past(self._counts, self._clock())
        self._counts[window_id] = count
        return Quota(limit, max(limit - count, 0), (number + 1) * window_s, window_s, count > limit)

    async def aclose(self) -> None:
        """Do nothing: there are no connections."""


class _Increment:
    """The calls that one Redis command adds to the shared count."""

    __slots__ = ("before", "calls")

    def __init__(self) -> None:
        self.calls = 0
        self.before: asyncio.Future[int | None] = asyncio.get_running_loop().create_future()
        """The shared count before the first of these calls; None: the command has failed."""


class _Window:
    """The calls of one key in one window."""

    __slots__ = ("count", "sending", "unsent")

    def __init__(self) -> None:
        self.count = 0
        """The last count from Redis, plus this process' calls since then."""
        self.unsent = _Increment()
        """The calls that are not sent to Redis yet."""
        self.sending: asyncio.Task[None] | None = None


class SharedLimiter:
    """Counts in Redis, for all processes together, with the `limits` library.

    One command for each key is in flight; the calls that arrive meanwhile share the next command. While
    Redis is slow or unreachable, calls do not wait: the process counts on from the last shared count,
    and a later command adds these calls to it.
    """

    def __init__(self, url: str, on_change: Callable[[bool], None] = lambda _: None) -> None:
        self._storage = RedisStorage(
            f"async+{_without_strict_tls(url)}",
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
        self._windows: dict[WindowId, _Window] = {}
        self._on_change = on_change
        self._unreachable = False
        self._incident = Incident(QUIET_S)
        self._retry_at = 0.0

    async def hit(self, key_id: str, rate: str) -> Quota:
        """Count a call, and return the key's quota."""
        limit, window_s = parse_rate(rate)
        window_id = (key_id, window_s, int(time.time() // window_s))
        window = self._windows.get(window_id)
        if window is None:
            if len(self._windows) >= MAX_WINDOWS:
                self._windows = _without_past(self._windows, time.time())
            window = self._windows[window_id] = _Window()
        window.count += 1
        window.unsent.calls += 1
        count, increment, place = window.count, window.unsent, window.unsent.calls
        self._send(window_id, window)
        if not self._unreachable and (before := await self._count_before(increment)) is not None:
            count = max(count, before + place)
        reset_at = (window_id[2] + 1) * window_s
        return Quota(limit, max(limit - count, 0), reset_at, window_s, count > limit)

    async def aclose(self) -> None:
        """Cancel the commands in flight, and close the connections."""
        tasks = [each.sending for each in self._windows.values() if each.sending is not None]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await self._client().aclose()

    async def problem(self) -> str | None:
        """Return why Redis cannot be used; None: it answers."""
        try:
            async with asyncio.timeout(COMMAND_TIMEOUT_S):
                await self._client().ping()
        except self._errors as error:
            return str(error) or f"Redis does not answer within {COMMAND_TIMEOUT_S:g} s"
        return None

    def _client(self) -> Any:  # noqa: ANN401 - the bridge's type does not say which of three clients it has
        bridge: Any = self._storage.bridge
        return bridge.get_connection()

    def _send(self, window_id: WindowId, window: _Window) -> None:
        """Send the window's calls, unless a command is in flight; each RETRY_S while Redis is unreachable."""
        if window.sending is not None and not window.sending.done():
            return  # the task also sends the calls that have arrived meanwhile
        now = time.monotonic()
        if not self._unreachable or now >= self._retry_at:
            self._retry_at = now + RETRY_S
            window.sending = asyncio.create_task(self._send_increments(window_id, window))

    async def _count_before(self, increment: _Increment) -> int | None:
        """Return the shared count before the increment; None: it is not known within STORAGE_TIMEOUT_S."""
        try:
            async with asyncio.timeout(STORAGE_TIMEOUT_S):
                return await asyncio.shield(increment.before)
        except TimeoutError:
            self._note(unreachable=True, error="it does not answer in time")
            return None

    async def _send_increments(self, window_id: WindowId, window: _Window) -> None:
        """Add the window's calls to the shared count, one command after the other, until none is left."""
        key_id, window_s, number = window_id
        while window.unsent.calls:
            increment, window.unsent = window.unsent, _Increment()
            began = time.monotonic()
            try:
                async with asyncio.timeout(COMMAND_TIMEOUT_S):
                    count = await self._storage.incr(
                        f"{key_id}/{window_s}/{number}", window_s, amount=increment.calls
                    )
            except self._errors as error:
                # After a time-out, Redis may still carry out the command.
                if not isinstance(error, TimeoutError):
                    window.unsent.calls += increment.calls
                increment.before.set_result(None)
                self._note(unreachable=True, error=first_line(error))
                return
            window.count = max(window.count, count + window.unsent.calls)
            increment.before.set_result(count - increment.calls)
            slow = time.monotonic() - began > STORAGE_TIMEOUT_S
            self._note(unreachable=slow, error="it is slow")

    def _note(self, *, unreachable: bool, error: str) -> None:
        """Report a change of Redis' state to the metrics; log one line while Redis is slow now and then."""
        if unreachable != self._unreachable:
            self._unreachable = unreachable
            self._on_change(unreachable)
        if unreachable and self._incident.fail("unreachable"):
            log.warning("rate_limits.storage_away", error=error)
        elif not unreachable and self._incident.lasts and self._incident.succeed():
            log.warning("rate_limits.storage_back")


def _without_past(windows: dict[WindowId, T], now: float) -> dict[WindowId, T]:
    """Return the windows that have not ended."""
    return {key: each for key, each in windows.items() if (key[2] + 1) * key[1] > now}


Limiter = MemoryLimiter | SharedLimiter


def make_limiter(storage: str, on_change: Callable[[bool], None] = lambda _: None) -> Limiter:
    """Return the limiter for `memory` or a Redis URL.

    `on_change` is called with True when Redis becomes unreachable, and with False when it is back.
    """
    return MemoryLimiter() if storage == "memory" else SharedLimiter(storage, on_change)


def _without_strict_tls(url: str) -> str:
    """Return the URL without VERIFY_X509_STRICT, which Python 3.13 sets by default.

    It refuses a private CA whose certificate lacks extensions of RFC 5280.
    """
    if not url.startswith("rediss:") or "ssl_exclude_verify_flags" in url:
        return url
    return f"{url}{'&' if '?' in url else '?'}ssl_exclude_verify_flags=VERIFY_X509_STRICT"


@lru_cache(maxsize=1024)
def parse_rate(rate: str) -> tuple[int, int]:
    """Return the calls and the window's seconds of a rate like "1000/minute"."""
    item = limits.parse(rate)
    return item.amount, item.get_expiry()
