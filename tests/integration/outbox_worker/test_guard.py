"""The guard of the event topic: when it asks brokers for the topic's id, and what it detects."""

from collections.abc import AsyncIterator, Sequence
from uuid import uuid4

import pytest
from aiokafka import AIOKafkaProducer

from outbox_worker.kafka import administration, metadata
from outbox_worker.kafka.connections import Client
from outbox_worker.kafka.guard import TopicGuard, TopicLostError
from outbox_worker.kafka.publisher import Destination, Publisher
from outbox_worker.postgres.registration import Registration
from outbox_worker.settings import Settings, read
from tests.support.topic import topics
from tests.support.waiting import until

PARTITIONS = 3
# Of its own for each process: tests that run side by side must not fence one another.
RELAY = Registration(uuid4().hex, "1", 1, PARTITIONS)


@pytest.fixture
async def settings(kafka: str, topic: str) -> Settings:
    """Return settings for topics that exist."""
    environ = {
        "DATABASE_URL": "postgresql://unused",
        "KAFKA_BOOTSTRAP_SERVERS": kafka,
        "OUTBOX_TOPIC": topic,
    }
    settings = read(environ)
    await topics.make(kafka, topic, PARTITIONS, {})
    await topics.make(kafka, RELAY.progress_topic(topic), 1, administration.PROGRESS_TOPIC)
    return settings


@pytest.fixture
async def publisher(settings: Settings) -> AsyncIterator[Publisher]:
    """Yield a publisher with a guard."""
    destination = Destination(
        settings.topic, RELAY.progress_topic(settings.topic), PARTITIONS, RELAY.name
    )
    publisher = Publisher(settings.kafka_client(), destination, transactional=True)
    await publisher.start()
    (topic,) = await metadata.topics(publisher._producer.client, [settings.topic])  # noqa: SLF001 - to ask as it does
    publisher.watch(TopicGuard(settings.topic, topic.id, {}))
    yield publisher
    await publisher.close()


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[Sequence[str]]:
    """Return the topics of each request for metadata from now on, one item for each request."""
    requests: list[Sequence[str]] = []
    ask = metadata.topics

    async def counted(client: Client, names: Sequence[str]) -> list[metadata.Topic]:
        requests.append(names)
        return await ask(client, names)

    monkeypatch.setattr(metadata, "topics", counted)
    return requests


async def publish(publisher: Publisher, count: int) -> None:
    """Publish a page of `count` events of one document."""
    page = [(n, "one key", b"event", None) for n in range(count)]
    await publisher.publish(await publisher.pack(page), b"progress")


async def fill(kafka: str, topic: str, count: int) -> None:
    """Write `count` records of another producer to each partition."""
    async with AIOKafkaProducer(bootstrap_servers=kafka) as stranger:
        for partition in range(PARTITIONS):
            for _ in range(count):
                await stranger.send_and_wait(topic, b"a stranger's", partition=partition)


async def test_brokers_are_asked_only_where_offsets_prove_nothing(
    settings: Settings, publisher: Publisher, kafka: str, asked: list[Sequence[str]]
) -> None:
    """Only the first page, and a page after another producer's records, cost a request."""
    await publish(publisher, 3)
    assert len(asked) == 1
    for count in (1, 5, 2):
        await publish(publisher, count)
    assert len(asked) == 1
    await fill(kafka, settings.topic, 1)
    await publish(publisher, 2)
    assert len(asked) == 2
    await publish(publisher, 1)
    assert len(asked) == 2


async def test_topic_made_anew_with_more_records_is_refused(
    settings: Settings, publisher: Publisher, kafka: str
) -> None:
    """A topic with another id is refused, although its offsets are above the known ones."""
    await publish(publisher, 3)
    await topics.delete(kafka, settings.topic)

    async def made() -> bool:  # brokers refuse the name until the old one is gone everywhere
        await topics.make(kafka, settings.topic, PARTITIONS, {})
        return True

    await until(made)
    await fill(kafka, settings.topic, 9)
    with pytest.raises(TopicLostError, match="made again"):
        await publish(publisher, 1)
    await publisher.close()
    assert set(await topics.payloads(kafka, settings.topic)) == {b"a stranger's"}
