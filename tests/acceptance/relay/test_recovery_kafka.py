"""A worker that was killed at any step of a transaction, or whose topics were deleted, loses nothing."""

import signal
from collections.abc import AsyncIterator
from typing import NamedTuple

import asyncpg
import pytest

from tests.support.faults.kafka import ADD_PARTITIONS_TO_TXN, END_TXN, PRODUCE, KafkaProxy
from tests.support.parts.brokers import Broker
from tests.support.parts.postgres import until_published
from tests.support.relay import outbox
from tests.support.relay.worker import Worker
from tests.support.topic import topics
from tests.support.waiting import until

EVENTS = 40
FORGET_LATER_CHECKPOINTS = """
DELETE FROM outbox_checkpoints
WHERE id > (SELECT min(id) FROM outbox_checkpoints)
"""


def values(records: list[topics.Record]) -> list[int]:
    """Return the payloads, which are numbers, sorted."""
    return sorted(int(record.value) for record in records)


@pytest.fixture
async def published(
    database: str, kafka: str, topic: str, connection: asyncpg.Connection, delivery: str
) -> AsyncIterator[Worker]:
    """Yield a leading worker that has published some events."""
    with Worker(database, kafka, topic, OUTBOX_DELIVERY=delivery) as worker:
        await worker.leading()
        await outbox.insert_events(connection, EVENTS)
        await topics.wait_for_count(kafka, topic, EVENTS)
        yield worker


class Step(NamedTuple):
    """The message at which the worker is killed, and whether the proxy still passes it on."""

    way: str
    key: int
    passed_on: bool = False


STEPS = {
    "before the transaction": Step("request", ADD_PARTITIONS_TO_TXN),
    "in it": Step("response", PRODUCE),
    "before the commit arrives": Step("request", END_TXN),
    "before the commit's answer arrives": Step("response", END_TXN),
    "after it": Step("response", END_TXN, passed_on=True),
}


@pytest.mark.xdist_group("a proxy to Kafka")
@pytest.mark.parametrize("step", STEPS.values(), ids=STEPS)
async def test_killed_at_each_step(
    database: str, connection: asyncpg.Connection, broker: Broker, proxy: KafkaProxy, step: Step
) -> None:
    """A worker that is killed at this step and started again publishes each event once."""
    with Worker(database, proxy.address, **broker.settings) as worker:
        topic = worker.topic
        await worker.leading()
        await outbox.insert_events(connection, EVENTS)
        await topics.wait_for_count(broker.inside, topic, EVENTS)

        async def kill(seen: str, api: int) -> bool:
            if (seen, api) != (step.way, step.key):
                return True
            proxy.watch = None
            worker.end(signal.SIGKILL)
            return step.passed_on

        proxy.watch = kill
        proxy.cut()  # connections whose messages were read before the watch began
        await outbox.insert_events(connection, EVENTS)
        await until(worker.ended)
        worker.start()
        assert (await worker.wait_event("relay.started"))["source"] == "progress"
        await outbox.insert_event(connection, "last", "0")
        records = await topics.wait_for_count(broker.inside, topic, 2 * EVENTS + 1)
    assert values(records) == sorted([0, *range(1, EVENTS + 1), *range(1, EVENTS + 1)])


@pytest.mark.timeout(300)
async def test_killed_in_the_middle_of_a_backlog(
    database: str, kafka: str, topic: str, connection: asyncpg.Connection, delivery: str
) -> None:
    """A worker that is killed within a window continues from its cursor."""
    await outbox.insert_events(connection, 60_000)
    settings = {"OUTBOX_BATCH_SIZE": "1000", "OUTBOX_DELIVERY": delivery}
    with Worker(database, kafka, topic, **settings) as worker:
        await worker.wait_published(5_000)
        worker.end(signal.SIGKILL)
        worker.start()
        assert (await worker.wait_event("relay.started"))["source"] == "progress"
        await outbox.insert_event(connection, "last", "60001")
        await until_published(worker, kafka, topic, "60001")
        found = values(await topics.read_all(kafka, topic))
    if delivery == "at-least-once":
        found = sorted(set(found))
    assert found == list(range(1, 60_002))


async def test_progress_topic_deleted(
    published: Worker, kafka: str, topic: str, connection: asyncpg.Connection
) -> None:
    """A worker starts from the checkpoint, logs why, and repeats the events that came after it."""
    published.end(signal.SIGKILL)
    await connection.execute(FORGET_LATER_CHECKPOINTS)  # a second one is written after 10 s
    name = await connection.fetchval("SELECT name FROM outbox_relay")
    await topics.delete(kafka, f"{topic}.progress.{name}")
    published.start()
    started = await published.wait_event("relay.started", level="warning")
    assert started["source"] == "checkpoint"
    assert started["reason"] == "the progress topic has no record"
    records = await topics.wait_for_count(kafka, topic, 2 * EVENTS)
    assert await published.metric("outbox_starts_total") == 1
    assert values(records) == sorted([*range(1, EVENTS + 1)] * 2)


async def test_event_topic_deleted(
    published: Worker, kafka: str, topic: str, connection: asyncpg.Connection
) -> None:
    """A worker publishes nothing to a new, empty topic until an operator accepts it."""
    published.end()
    await topics.delete(kafka, topic)
    published.start()
    await published.wait_event("worker.failing", problem="TopicLostError")
    assert (await published.get("/readyz")).status_code == 503
    await outbox.insert_events(connection, 3)
    published.end()
    assert await topics.read_all(kafka, topic) == []
    published.start("--accept-topic")
    records = await topics.wait_for_count(kafka, topic, 3)
    assert values(records) == [1, 2, 3]
