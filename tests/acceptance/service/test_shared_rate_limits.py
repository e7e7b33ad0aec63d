"""Rate limits that processes share through a real Redis, which may be unreachable."""

import asyncio
import os
import signal
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import TypeVar
from uuid import uuid4

import httpx
import pytest

from deploy.local import programs
from service.edge.gate.rates import MemoryLimiter, Quota, SharedLimiter
from tests.support.parts.redis import Redis
from tests.support.service.api import new_key
from tests.support.streams import close
from tests.support.waiting import eventually, until

T = TypeVar("T")
RATE = "20/day"
URL = "/v1/documents/doc_1"


@pytest.fixture
def redis() -> Iterator[Redis]:
    """Yield a Redis."""
    with Redis() as redis:
        yield redis


@pytest.fixture
async def limiter(redis: Redis) -> AsyncIterator[SharedLimiter]:
    """Yield a limiter on the Redis."""
    limiter = SharedLimiter(redis.url)
    yield limiter
    await limiter.aclose()


async def test_it_counts_as_a_limiter_in_memory_does(limiter: SharedLimiter) -> None:
    """Limit, remaining, reset and refusal are the same in Redis and in memory."""
    memory = MemoryLimiter()
    for _ in range(5):
        assert await limiter.hit("key", "3/day") == await memory.hit("key", "3/day")
    assert not (await limiter.hit("other", "3/day")).exceeded


async def while_redis_answers(
    redis: Redis, limiters: int, scenario: Callable[..., Awaitable[T]]
) -> T:
    """Return what a scenario gives with new limiters, none of which took Redis for unreachable.

    They do so after 0.25 s, which a busy machine may need for an answer; then the scenario is repeated.
    """

    async def attempt() -> list[T]:
        away: list[bool] = []
        made = [SharedLimiter(redis.url, away.append) for _ in range(limiters)]
        given = await scenario(uuid4().hex, *made)
        for limiter in made:
            await limiter.aclose()
        return [] if away else [given]

    return (await until(attempt))[0]


async def test_calls_at_once_are_counted_once_each(redis: Redis) -> None:
    """Concurrent calls of two processes use up one limit exactly."""

    async def calls(key: str, *limiters: SharedLimiter) -> list[Quota]:
        quotas: list[Quota] = []
        for _ in range(10):
            hits = [each.hit(key, "30/day") for each in limiters for _ in range(3)]
            quotas += await asyncio.gather(*hits)
        return quotas

    quotas = await while_redis_answers(redis, 2, calls)
    assert sum(quota.exceeded for quota in quotas) == 30
    assert sorted(quota.remaining for quota in quotas)[30:] == list(range(30))


async def test_a_call_is_one_round_trip(redis: Redis) -> None:
    """Once the script is loaded, each call sends one command."""

    async def calls(key: str, limiter: SharedLimiter) -> int:
        await limiter.hit(key, RATE)
        before = await commands(redis)
        for _ in range(10):
            await limiter.hit(key, RATE)
        return await commands(redis) - before

    assert await while_redis_answers(redis, 1, calls) == 10 + 1  # and the one that asks


async def commands(redis: Redis) -> int:
    """Return the number of commands sent by callers, without those that scripts execute."""
    host, _, port = redis.url.removeprefix("redis://").removesuffix("/0").partition(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    writer.write(b"INFO commandstats\r\n")
    length = int((await reader.readline())[1:])
    text = (await reader.readexactly(length)).decode()
    await close(writer)
    calls = {
        line.partition(":")[0]: int(line.partition("calls=")[2].partition(",")[0])
        for line in text.splitlines()
        if "calls=" in line
    }
    return calls.get("cmdstat_evalsha", 0) + calls.get("cmdstat_info", 0) + 1


async def test_calls_do_not_wait_for_a_hanging_redis(redis: Redis, limiter: SharedLimiter) -> None:
    """Of a hundred calls few wait for the time-out of 0.25 s; the others are counted in memory at once."""
    await limiter.hit("key", "200/day")
    redis.pause()
    async with asyncio.timeout(100 * 0.25):
        quotas = [await limiter.hit("key", "200/day") for _ in range(100)]
    redis.resume()
    assert [quota.remaining for quota in quotas] == list(range(198, 98, -1))


async def test_a_slow_redis_keeps_the_limit(redis: Redis) -> None:
    """While Redis hangs for 0.3 s three times, three processes allow at most 1.5 times the limit."""
    limiters = [SharedLimiter(redis.url) for _ in range(3)]
    allowed = 0
    stalls_over = asyncio.Event()

    async def call(limiter: SharedLimiter) -> None:
        nonlocal allowed
        exceeded = False
        while not (stalls_over.is_set() and exceeded):
            exceeded = (await limiter.hit("key", "200/day")).exceeded
            allowed += not exceeded
            await asyncio.sleep(0.005)  # the limit lasts for several stalls

    callers = [asyncio.create_task(call(limiter)) for limiter in limiters]
    for _ in range(3):
        redis.pause()
        await asyncio.sleep(0.3)  # what a slow Redis does
        redis.resume()
        await asyncio.sleep(0.5)
    stalls_over.set()
    await asyncio.gather(*callers)
    quotas = [await limiter.hit("key", "200/day") for limiter in limiters]
    for limiter in limiters:
        await limiter.aclose()
    assert all(quota.exceeded for quota in quotas)
    assert 200 <= allowed <= 300  # while one process waits for Redis, the others count on


def client_of(program: programs.Program, key: str) -> httpx.AsyncClient:
    """Return a client of one of the processes."""
    return httpx.AsyncClient(base_url=program.url, headers={"X-API-KEY": key}, timeout=30)


def logged(program: programs.Program, event: str) -> int:
    """Return how often a process has logged an event."""
    return program.log.read_text().count(f'"event": "{event}"')


async def exhausted(database: str, pair: list[programs.Program]) -> str | None:
    """Use up a new key's limit, and return the key; None if a process took Redis for unreachable.

    It does so after 0.25 s, which a busy machine may need for an answer.
    """
    key = await new_key(database, rate_limit=RATE)
    async with client_of(pair[0], key) as first, client_of(pair[1], key) as second:
        answers = [await client.get(URL) for _ in range(5) for client in (first, second)]
        left = [answer.headers["x-ratelimit-remaining"] for answer in answers]
        for _ in range(5):
            await asyncio.gather(first.get(URL), second.get(URL))
        refused = await second.get(URL)
    together = left == [str(number) for number in range(19, 9, -1)]
    if not (together and refused.status_code == 429):
        assert any(logged(each, "rate_limits.storage_away") for each in pair), (left, refused)
        return None
    assert refused.json()["code"] == "rate_limited"
    assert 0 < int(refused.headers["retry-after"]) <= 86_400
    return key


async def test_two_processes_share_one_limit(database: str, redis: Redis, tmp_path: Path) -> None:
    """Processes count together; each counts alone while Redis is unreachable; then together again."""
    settings = {"LINKS_RATE_LIMIT_STORAGE": redis.url}
    with ExitStack() as running:
        pair = []
        for name in "ab":
            folder = tmp_path / name
            folder.mkdir()
            pair.append(running.enter_context(programs.service(database, folder, **settings)))
        key = await until(lambda: exhausted(database, pair))
        assert key
        async with client_of(pair[0], key) as first, client_of(pair[1], key) as second:
            redis.stop()
            for client in (first, second):
                answers = [await client.get(URL) for _ in range(3)]
                left = [answer.headers["x-ratelimit-remaining"] for answer in answers]
                assert left == ["0", "0", "0"]  # what Redis told last is remembered
            assert [logged(program, "rate_limits.storage_away") for program in pair] == [1, 1]
            metric = "links_rate_limit_storage_away 1.0"
            assert metric in (await first.get("/metrics")).text

            redis.start()

            async def back() -> bool:
                await asyncio.gather(first.get(URL), second.get(URL))
                told = all(logged(each, "rate_limits.storage_back") for each in pair)
                return told and (
                    "links_rate_limit_storage_away 0.0" in (await first.get("/metrics")).text
                )

            await until(back)


async def test_the_service_starts_without_redis(database: str, tmp_path: Path) -> None:
    """Callers are served although Redis is unreachable at the start."""
    key = await new_key(database)
    with Redis() as redis:
        url = redis.url
    with programs.service(database, tmp_path, LINKS_RATE_LIMIT_STORAGE=url) as program:
        async with client_of(program, key) as client:
            assert (await client.get(URL)).status_code == 404
        eventually(lambda: logged(program, "rate_limits.storage_away") == 1)


@pytest.mark.parametrize("workers", ["1", "2"])
def test_limits_in_memory_are_logged(database: str, tmp_path: Path, workers: str) -> None:
    """Several processes that count in memory log this once at the start."""
    with programs.service(database, tmp_path, LINKS_WORKERS=workers) as program:
        assert logged(program, "rate_limits.each_process_on_its_own") == 1


async def test_a_killed_process_leaves_no_gauge(
    database: str, redis: Redis, tmp_path: Path
) -> None:
    """A worker killed while Redis is unreachable leaves its counters, but not the gauge."""
    key = await new_key(database)
    settings = {"LINKS_RATE_LIMIT_STORAGE": redis.url, "LINKS_WORKERS": "2"}
    with programs.service(database, tmp_path, **settings) as program:
        redis.stop()

        async def metrics() -> str:
            async with httpx.AsyncClient(base_url=program.url, timeout=30) as client:
                return (await client.get("/metrics")).text

        async def called() -> int:
            """Make a call on a new connection; return the number of counted calls."""
            async with client_of(program, key) as client:
                assert (await client.get(URL)).status_code == 404
            counted = (
                'links_http_requests_total{method="GET",route="/v1/documents/{id}",status="404"} '
            )
            return int(float((await metrics()).partition(counted)[2].partition("\n")[0]))

        assert await called() == 1
        assert "links_rate_limit_storage_away 1.0" in await metrics()
        killed = worker_processes(program.pid)
        for pid in killed:
            os.kill(pid, signal.SIGKILL)
        redis.start()

        async def replaced() -> bool:
            with suppress(httpx.HTTPError):
                return (
                    len(set(worker_processes(program.pid)) - set(killed)) == 2
                    and await called() > 1
                )
            return False

        async def reachable() -> bool:
            await called()
            return "links_rate_limit_storage_away 1.0" not in await metrics()

        await until(replaced)
        await until(reachable)


def worker_processes(pid: int) -> list[int]:
    """Return the worker processes of a service."""
    tasks = Path(f"/proc/{pid}/task").iterdir()
    children = [int(each) for task in tasks for each in (task / "children").read_text().split()]
    return [
        each for each in children if b"spawn_main" in Path(f"/proc/{each}/cmdline").read_bytes()
    ]
