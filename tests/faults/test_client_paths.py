"""Rare paths of the client library, on brokers that are moved, restarted and without a leader.

From the moment at which Kafka works again events flow within ten seconds; nothing is lost, and
nothing comes twice.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

import pytest

from tests.support.parts.brokers import NOTHING, SecuredCluster, secured
from tests.support.relay import writers
from tests.support.relay.worker import Worker
from tests.support.topic import topics
from tests.support.topic.reckoning import reckon
from tests.support.waiting import FAULT_S, last, until

RECOVERY_S = 10
# One thread that stays: a broker ends with the thread that started it.
BESIDE = ThreadPoolExecutor(max_workers=1)
STATE = "__transaction_state"
NODES = range(3)

pytestmark = pytest.mark.xdist_group("client paths")


class Door(NamedTuple):
    """A way into three brokers, and what a worker needs for it."""

    cluster: SecuredCluster
    kafka: str
    settings: Mapping[str, str]


@pytest.fixture(scope="module")
def doors() -> Iterator[dict[str, Door]]:
    """Yield three brokers' ways in."""
    with secured() as by, SecuredCluster(by) as cluster:
        yield {
            "plain": Door(cluster, cluster.bootstrap, NOTHING),
            "TLS": Door(cluster, cluster.outside, by.settings),
        }


@pytest.fixture(params=["plain", "TLS"])
def door(request: pytest.FixtureRequest, doors: dict[str, Door]) -> Door:
    """Return a way in."""
    return doors[request.param]


async def beside(work: Callable[[int], None], node: int) -> None:
    """Do something to a broker while the writers go on."""
    await asyncio.get_running_loop().run_in_executor(BESIDE, work, node)


async def restarted_one_after_the_other(door: Door, worker: Worker, _: str) -> None:
    """Restart each broker; events flow before the next one."""
    for node in NODES:
        await beside(door.cluster.stop_broker, node)
        await beside(door.cluster.start_broker, node)
        await worker.wait_working(RECOVERY_S)


async def coordinator_moved(door: Door, worker: Worker, _: str) -> None:
    """Move the transactions to brokers that do not coordinate them, and again."""
    for _again in range(2):
        was = await topics.leader(door.cluster.bootstrap, STATE)
        await topics.move(door.cluster.bootstrap, STATE, [each for each in NODES if each != was])
        assert await topics.leader(door.cluster.bootstrap, STATE) != was
        await worker.wait_working(RECOVERY_S)
    await topics.move(door.cluster.bootstrap, STATE, NODES)


Fault = Callable[[Door, Worker, str], Awaitable[None]]
FAULTS: list[Fault] = [
    restarted_one_after_the_other,
    coordinator_moved,
]


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.__name__)
async def test_events_flow_within_ten_seconds(
    database: str, door: Door, delivery: str, fault: Fault
) -> None:
    """After each fault, in either delivery mode, in plain text and over TLS."""
    topic = database.rpartition("/")[2]
    await writers.prepare(database)
    settings = {**door.settings, "OUTBOX_DELIVERY": delivery}
    with Worker(database, door.kafka, topic, **settings) as worker:
        await worker.leading()
        async with writers.writing(lambda: database, 1):
            await worker.wait_published(20)
            await fault(door, worker, topic)
            began = time.monotonic()
            await worker.wait_working()
            assert time.monotonic() - began < RECOVERY_S
        await reckon(database, door.cluster.bootstrap, topic, delivery)


@pytest.mark.parametrize("which", ["events", "progress"])
async def test_partition_has_no_leader_for_a_while(
    database: str, door: Door, delivery: str, which: str
) -> None:
    """The worker names the partition; once it has a leader again, all that was written flows.

    Nothing is being committed when the leader stops: Kafka 4.3 leaves out the marker of a partition
    without a leader (KAFKA-20734), so that a part of a transaction may count as aborted.
    """
    topic, kafka = database.rpartition("/")[2], door.cluster.bootstrap
    await writers.prepare(database)
    settings = {**door.settings, "OUTBOX_DELIVERY": delivery}
    with Worker(database, door.kafka, topic, **settings) as worker:
        await worker.leading()
        async with writers.writing(lambda: database, 1):
            await worker.wait_published(20)
        await reckon(database, kafka, topic, delivery)
        without = topic if which == "events" else await progress_topic(kafka, topic)
        node = await topics.leader(kafka, without)
        await topics.move(kafka, without, [node])
        await beside(door.cluster.stop_broker, node)
        async with writers.writing(lambda: database, 1):
            await until(lambda: names(worker, without))
            await last(FAULT_S)
            await beside(door.cluster.start_broker, node)
            began = time.monotonic()
            await worker.wait_working()
            assert time.monotonic() - began < RECOVERY_S
        await reckon(database, kafka, topic, delivery)


async def progress_topic(kafka: str, topic: str) -> str:
    """Return the name of the progress topic."""
    async with topics.administration(kafka) as admin:
        (name,) = [each for each in await admin.list_topics() if each.startswith(f"{topic}.")]
    return str(name)


async def names(worker: Worker, topic: str) -> bool:
    """Whether the worker has said that a partition of the topic has no leader."""
    said = [line["detail"] for line in worker.log() if line["event"] == "worker.failing"]
    return any(topic in each and "leader" in each for each in said)


async def test_first_start_without_one_of_three_brokers(database: str, door: Door) -> None:
    """The worker makes its topics with three replicas, and publishes."""
    topic = database.rpartition("/")[2]
    await writers.prepare(database)
    door.cluster.kill(0)
    with Worker(database, door.kafka, topic, **door.settings) as worker:
        await worker.leading()
        made = [line["replicas"] for line in worker.log() if line["event"] == "topic.made"]
        assert made == [len(NODES), len(NODES)]
        async with writers.writing(lambda: database, 1):
            await worker.wait_published(20)
        await beside(door.cluster.start_broker, 0)
        await reckon(database, door.cluster.bootstrap, topic)
    assert "topic.few_replicas" not in worker.output()
