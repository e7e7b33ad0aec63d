"""Rate limits: a fixed window for each key, and the headers."""

import ssl
import time
from typing import Any

import pytest

from service.edge.gate import rates
from service.edge.gate.gate import rate_headers
from service.edge.gate.rates import MemoryLimiter, Quota, make_limiter, parse_rate


class Clock:
    """A clock that a test sets."""

    def __init__(self, now: float) -> None:
        self.now = now

    def __call__(self) -> float:
        """Return the time, in seconds since 1970."""
        return self.now


async def test_a_window_lets_so_many_calls_through() -> None:
    """The limit's calls pass, the next one does not, and `remaining` is never below 0."""
    limiter = MemoryLimiter(Clock(1200.5))
    quotas = [await limiter.hit("key", "3/minute") for _ in range(5)]
    assert [quota.exceeded for quota in quotas] == [False, False, False, True, True]
    assert [quota.remaining for quota in quotas] == [2, 1, 0, 0, 0]
    assert {quota[0:1] + quota[2:4] for quota in quotas} == {(3, 1260, 60)}


async def test_the_next_window_begins_anew() -> None:
    """At the end of the window all calls are available again."""
    clock = Clock(1259.999)
    limiter = MemoryLimiter(clock)
    await limiter.hit("key", "1/minute")
    assert (await limiter.hit("key", "1/minute")).exceeded
    clock.now = 1260.0
    quota = await limiter.hit("key", "1/minute")
    assert (quota.exceeded, quota.reset_at) == (False, 1320)


async def test_keys_do_not_share_a_window() -> None:
    """The calls of one key do not count for another."""
    limiter = MemoryLimiter(Clock(0.0))
    await limiter.hit("one", "1/minute")
    assert (await limiter.hit("one", "1/minute")).exceeded
    assert not (await limiter.hit("other", "1/minute")).exceeded


async def test_past_windows_are_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    """The memory has only the keys of the present window."""
    monkeypatch.setattr(rates, "MAX_WINDOWS", 10)
    clock = Clock(0.0)
    limiter = MemoryLimiter(clock)
    for number in range(10):
        await limiter.hit(f"old-{number}", "1/minute")
    clock.now = 61.0
    await limiter.hit("new", "5/minute")
    assert (await limiter.hit("new", "5/minute")).remaining == 3
    assert len(limiter._counts) == 1  # noqa: SLF001 - what it holds is what this is about


@pytest.mark.parametrize(
    ("rate", "limit", "window_s"),
    [("1000/minute", 1000, 60), ("5 per 2 hours", 5, 7200), ("10/second", 10, 1)],
)
def test_rates_are_read(rate: str, limit: int, window_s: int) -> None:
    """A rate is a number of calls in a number of seconds."""
    assert parse_rate(rate) == (limit, window_s)


def test_headers_of_both_families() -> None:
    """The limit is in X-RateLimit-* and in the IETF's headers, with the same values."""
    headers = dict(rate_headers(Quota(1000, 7, 0, 60, exceeded=False)))
    assert headers == {
        b"x-ratelimit-limit": b"1000",
        b"x-ratelimit-remaining": b"7",
        b"x-ratelimit-reset": b"0",
        b"ratelimit-policy": b'"default";q=1000;w=60',
        b"ratelimit": b'"default";r=7;t=0',
    }


def test_headers_tell_the_seconds_until_the_window_ends() -> None:
    """`t` is the time to the end of the window in whole seconds."""
    now = int(time.time())
    headers = dict(rate_headers(Quota(10, 7, now + 30, 60, exceeded=False)))
    passed = int(time.time()) - now
    told = headers[b"ratelimit"].removeprefix(b'"default";r=7;t=')
    assert 30 - passed <= int(told) <= 30


def test_memory_is_the_storage_unless_a_url_is_given() -> None:
    """The storage `memory` needs no other program."""
    assert isinstance(make_limiter("memory"), MemoryLimiter)


@pytest.mark.parametrize(
    "url", ["rediss://redis.example:6379/0", "rediss://redis.example:6379/?db=1"]
)
def test_tls_with_redis_accepts_what_it_does_before_python_3_13(url: str) -> None:
    """A private CA whose certificates lack extensions of RFC 5280 is accepted by each Python version."""
    limiter = make_limiter(url)
    assert isinstance(limiter, rates.SharedLimiter)
    bridge: Any = limiter._storage.bridge  # noqa: SLF001 - nothing else shows the connections' options
    given = bridge.get_connection().connection_pool.connection_kwargs["ssl_exclude_verify_flags"]
    assert given == [ssl.VERIFY_X509_STRICT]
