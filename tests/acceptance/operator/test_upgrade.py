"""An upgrade from the last release during business hours, and the way back: both releases' own programs."""

import asyncio
import signal
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from threading import Event
from typing import NamedTuple

import asyncpg
import httpx
import pytest

from service.store.migrations.version import VERSION
from tests.support.releases.history import RELEASES, TOP, extract
from tests.support.releases.programs import Release, Running
from tests.support.service.api import GENEROUS, Api, seed
from tests.support.service.balancer import BalancedTransport, Balancer
from tests.support.service.callers import DOCUMENTS, Caller
from tests.support.topic import topics
from tests.support.topic.subscriber import check, read_outbox
from tests.support.waiting import eventually

LAST_SCHEMA = max(RELEASES)
"""The schema that the programs of the last release need. A release without a step leaves it as it is."""
MIGRATED = (
    f"schema {LAST_SCHEMA} is now schema {VERSION}\n"
    if LAST_SCHEMA < VERSION
    else "schema is up to date\n"
)
THREADS = 4
SERVICES = 2
CALLS = 60
"""How many calls each service answers in each phase of the upgrade."""


class Releases(NamedTuple):
    """The release before this one, and this one."""

    old: Release
    new: Release


@pytest.fixture
def releases(empty_database: str, kafka: str, topic: str, tmp_path: Path) -> Iterator[Releases]:
    """Yield both releases' programs, for an empty database."""
    env = {
        "DATABASE_URL": empty_database,
        "KAFKA_BOOTSTRAP_SERVERS": kafka,
        "OUTBOX_TOPIC": topic,
        "LINKS_RATE_LIMIT": GENEROUS,
    }
    folders = [tmp_path / name for name in ("code", "old", "new")]
    for folder in folders:
        folder.mkdir()
    code = extract(LAST_SCHEMA, folders[0])
    with Release(code, folders[1], env) as old, Release(TOP, folders[2], env) as new:
        yield Releases(old, new)


def call_until(stop: Event, balancer: Balancer, key: str, number: int) -> None:
    """Make random calls, on this thread, until told to stop."""

    async def calls() -> None:
        async with httpx.AsyncClient(
            transport=BalancedTransport(balancer),
            base_url="http://balanced",
            headers={"X-API-KEY": key},
            timeout=60,
        ) as client:
            await Caller(Api(client, key), number).call_until(stop)

    asyncio.run(calls())


@asynccontextmanager
async def calling(balancer: Balancer, key: str) -> AsyncIterator[None]:
    """Call from several threads for as long as the context lasts."""
    stop = Event()
    async with asyncio.TaskGroup() as group:
        for number in range(THREADS):
            group.create_task(asyncio.to_thread(call_until, stop, balancer, key, number))
        try:
            yield
        finally:
            stop.set()


def upgrade_and_roll_back(
    releases: Releases, balancer: Balancer, services: list[Running], worker: Running
) -> None:
    """Migrate, replace the old programs by the new ones, and then the new ones by the old ones.

    At the way back, the leading worker is killed: it writes no last checkpoint.
    """
    old, new = releases
    balancer.each_answered(CALLS)
    steps = new.run("service", "migrate", "--plan").count("  beside: programs for schema ")
    assert steps == VERSION - LAST_SCHEMA
    assert new.run("service", "migrate") == MIGRATED
    assert all(service.ready() for service in services)
    balancer.each_answered(CALLS)
    for release, signal_, code in ((new, signal.SIGTERM, 0), (old, signal.SIGKILL, -9)):
        replacing, standby = release.start(SERVICES)
        balancer.add(*(service.url for service in replacing))
        balancer.each_answered(CALLS)
        assert worker.end(signal_) == code
        eventually(standby.leads)
        balancer.remove(*(service.url for service in services))
        assert [service.end() for service in services] == [0] * SERVICES
        services, worker = replacing, standby
        balancer.each_answered(CALLS)
    assert old.run("service", "migrate") == "schema is up to date\n"


@pytest.mark.timeout(600)
async def test_upgrade_under_load_and_back(
    releases: Releases, empty_database: str, kafka: str, topic: str
) -> None:
    """Not one answer of 5xx, no event lost, twice or out of order, and the topic gives the links."""
    old = releases.old
    old.run("service", "migrate")
    key = old.run("service", "keys", "create", "--workspace", "test").strip()
    connection = await asyncpg.connect(empty_database)
    await seed(connection, len(DOCUMENTS), 3)
    services, worker = await asyncio.to_thread(old.start, SERVICES)
    balancer = Balancer([service.url for service in services])
    async with calling(balancer, key):
        await asyncio.to_thread(upgrade_and_roll_back, releases, balancer, services, worker)
    assert {status for _, status in balancer.answers} <= {200, 201, 404, 409}, balancer.answers
    assert balancer.wrong == []
    assert balancer.replayed > 20
    written = await read_outbox(connection)
    records = await topics.wait_for_count(kafka, topic, len(written))
    assert len(records) == len(written) > 100
    await check(connection, [record.value for record in records])
    for release in releases:
        release.run("outbox_worker", "verify", "--all")
    await connection.close()
