"""Rare paths of the client library: brokers restart, coordinators move, partitions have no leader.

When Kafka works again, events are published within ten seconds. None is lost; exactly once, none is
repeated.
"""

from collections.abc import Awaitable, Callable, Iterator, Mapping
from typing import NamedTuple

import pytest

from tests.support.parts.brokers import NOTHING, SecuredCluster, beside, secured
from tests.support.relay import writers
from tests.support.relay.load import under_load
from tests.support.relay.worker import Worker
from tests.support.topic import topics
from tests.support.topic.reckoning import reckon
from tests.support.waiting import BUSY_S, FAULT_S, last, until

RECOVERY_S = 10 + BUSY_S
STATE = "__transaction_state"
NODES = range(3)

pytestmark = pytest.mark.xdist_group("client paths")


class Entrance(NamedTuple):
    """One of the listeners of three brokers, with a worker's settings for it."""

    cluster: SecuredCluster
    kafka: str
    settings: Mapping[str, str]


@pytest.fixture(scope="module")
def entrances() -> Iterator[dict[str, Entrance]]:
    """Yield the listeners of three brokers."""
    with secured() as by, SecuredCluster(by) as cluster:
        yield {
            "plain": Entrance(cluster, cluster.bootstrap, NOTHING),
            "TLS": Entrance(cluster, cluster.outside, by.settings),
        }


@pytest.fixture(params=["plain", "TLS"])
def entrance(request: pytest.FixtureRequest, entrances: dict[str, Entrance]) -> Entrance:
    """Return one of the listeners."""
    return entrances[request.param]


async def restarted_one_after_the_other(entrance: Entrance, worker: Worker) -> None:
    """Restart one broker after the other; between two restarts events are published."""
    for node in NODES:
        await beside(entrance.cluster.stop_broker, node)
        await beside(entrance.cluster.start_broker, node)
        await worker.wait_working(RECOVERY_S)


async def coordinator_moved(entrance: Entrance, worker: Worker) -> None:
    """Move the transaction coordinator to another broker, twice."""
    for _again in range(2):
        was = await topics.leader(entrance.cluster.bootstrap, STATE)
        await topics.move(
            entrance.cluster.bootstrap, STATE, [each for each in NODES if each != was]
        )
        assert await topics.leader(entrance.cluster.bootstrap, STATE) != was
        await worker.wait_working(RECOVERY_S)
    await topics.move(entrance.cluster.bootstrap, STATE, NODES)


Fault = Callable[[Entrance, Worker], Awaitable[None]]
FAULTS: list[Fault] = [restarted_one_after_the_other, coordinator_moved]


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.__name__)
async def test_events_are_published_within_ten_seconds(
    database: str, entrance: Entrance, delivery: str, fault: Fault
) -> None:
    """After each fault events are published, in either delivery mode, in plain text and over TLS."""
    settings = {**entrance.settings, "OUTBOX_DELIVERY": delivery}
    async with under_load(
        database,
        entrance.kafka,
        inside=entrance.cluster.bootstrap,
        **settings,
    ) as worker:
        await fault(entrance, worker)
        await worker.wait_working(RECOVERY_S)


@pytest.mark.parametrize("which", ["events", "progress"])
async def test_partition_has_no_leader_for_a_while(
    database: str, entrance: Entrance, delivery: str, which: str
) -> None:
    """The worker names the partition; once it has a leader again, all events are published.

    No transaction is open when the leader stops: Kafka 4.3 writes no marker to a partition without a
    leader (KAFKA-20734), so that a part of a transaction may count as aborted.
    """
    kafka = entrance.cluster.bootstrap
    await writers.prepare(database)
    settings = {**entrance.settings, "OUTBOX_DELIVERY": delivery}
    with Worker(database, entrance.kafka, **settings) as worker:
        topic = worker.topic
        await worker.leading()
        async with writers.writing(database):
            await worker.wait_published(20)
        await reckon(database, kafka, topic, delivery)
        without = topic if which == "events" else await progress_topic(kafka, topic)
        node = await topics.leader(kafka, without)
        await topics.move(kafka, without, [node])
        await beside(entrance.cluster.stop_broker, node)
        async with writers.writing(database):
            await until(lambda: names(worker, without))
            await last(FAULT_S)
            await beside(entrance.cluster.start_broker, node)
            await worker.wait_working(RECOVERY_S)
        await reckon(database, kafka, topic, delivery)


async def progress_topic(kafka: str, topic: str) -> str:
    """Return the name of the progress topic."""
    async with topics.administration(kafka) as admin:
        (name,) = [each for each in await admin.list_topics() if each.startswith(f"{topic}.")]
    return str(name)


async def names(worker: Worker, topic: str) -> bool:
    """Whether the worker has logged that a partition of the topic has no leader."""
    said = [line["detail"] for line in worker.log() if line["event"] == "worker.failing"]
    return any(topic in each and "leader" in each for each in said)


async def test_first_start_without_one_of_three_brokers(database: str, entrance: Entrance) -> None:
    """The worker makes its topics with three replicas, and publishes."""
    entrance.cluster.kill(0)
    async with under_load(
        database, entrance.kafka, inside=entrance.cluster.bootstrap, **entrance.settings
    ) as worker:
        made = [line["replicas"] for line in worker.log() if line["event"] == "topic.made"]
        assert made == [len(NODES), len(NODES)]
        await beside(entrance.cluster.start_broker, 0)
    assert "topic.few_replicas" not in worker.output()
