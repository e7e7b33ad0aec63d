"""Bounded reads of a topic: each ends in time, and names the reason."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any
from uuid import uuid4

import msgspec
import pytest
from aiokafka import AIOKafkaProducer

from outbox_worker.kafka import progress_topic, reading
from outbox_worker.kafka.records import PROGRESS_KEY as KEY
from outbox_worker.postgres.progress import Progress
from tests.support.topic import topics

STRAYS: list[tuple[bytes | None, bytes | None]] = [
    (KEY, b"not JSON"),
    (KEY, b"{}"),
    (KEY, None),
    (b"other", b"1"),
    (None, bytes(500_000)),
]
RECORD = Progress(
    system_identifier="7001",
    database_oid=16_384,
    timeline="00000001",
    checkpoint="abc",
    s0="100:105:100,103",
    s1=None,
    after=(0, 0),
    offsets={0: 41},
    events=7,
    at=0.0,
)
LATER = msgspec.structs.replace(RECORD, events=8)


@pytest.fixture
async def client(kafka: str, topic: str) -> dict[str, Any]:
    """Return the arguments of clients for a Kafka that has the topic, with one partition."""
    await topics.make(kafka, topic, 1, {})
    return {"bootstrap_servers": kafka}


@pytest.fixture
async def producer(client: dict[str, Any]) -> AsyncIterator[AIOKafkaProducer]:
    """Yield a producer without transactions."""
    async with AIOKafkaProducer(**client) as producer:
        yield producer


async def write(producer: AIOKafkaProducer, topic: str, *records: Progress) -> None:
    """Write progress records to the topic."""
    for record in records:
        await producer.send_and_wait(topic, key=KEY, value=msgspec.json.encode(record))


@asynccontextmanager
async def open_transaction(client: dict[str, Any], topic: str) -> AsyncIterator[None]:
    """Keep another producer's transaction open, with one record, until the context ends."""
    stranger = AIOKafkaProducer(**client, transactional_id=uuid4().hex)
    async with stranger:
        await stranger.begin_transaction()
        await stranger.send_and_wait(topic, b"a stranger's")
        yield
        await stranger.abort_transaction()


@pytest.mark.parametrize("count", [1, 30])
async def test_stray_records_are_skipped(
    client: dict[str, Any], topic: str, producer: AIOKafkaProducer, count: int
) -> None:
    """The last progress record is found among other records."""
    await write(producer, topic, RECORD)
    for key, value in STRAYS * count:
        await producer.send_and_wait(topic, key=key, value=value)
    found = await progress_topic.last(client, topic, wait_s=0)
    assert (found.record, found.hidden_from) == (RECORD, None)
    assert sorted(found.strays) == [*range(1, 1 + len(STRAYS) * count)]


async def test_topic_of_stray_records(
    client: dict[str, Any], topic: str, producer: AIOKafkaProducer
) -> None:
    """A topic with other records only has no progress record."""
    for key, value in STRAYS:
        await producer.send_and_wait(topic, key=key, value=value)
    found = await progress_topic.last(client, topic, wait_s=0)
    assert (found.record, found.hidden_from) == (None, None)


async def test_open_transaction_hides_later_records(
    client: dict[str, Any], topic: str, producer: AIOKafkaProducer
) -> None:
    """A read tells the offset from which records are hidden; after the transaction it finds all."""
    await write(producer, topic, RECORD)
    async with open_transaction(client, topic):
        await write(producer, topic, LATER)
        found = await progress_topic.last(client, topic, wait_s=0.5)
        assert found == (RECORD, 1, [])
    found = await progress_topic.last(client, topic, wait_s=10)
    assert found.record == LATER
    assert found.hidden_from is None


async def test_transaction_that_ends_in_time_is_waited_for(
    client: dict[str, Any], topic: str, producer: AIOKafkaProducer
) -> None:
    """A read waits until the last stable offset is at the end."""
    await write(producer, topic, RECORD)
    async with open_transaction(client, topic):
        await write(producer, topic, LATER)
        reader = asyncio.create_task(progress_topic.last(client, topic, wait_s=60))
    found = await reader
    assert (found.record, found.hidden_from) == (LATER, None)


async def test_open_transaction_ends_a_read_between_offsets(
    client: dict[str, Any],
    topic: str,
    producer: AIOKafkaProducer,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The read yields the records before the transaction, then raises an error with partition and offset."""
    monkeypatch.setattr(reading, "STALLED_S", 1)
    await write(producer, topic, RECORD)
    records: list[Any] = []
    async with open_transaction(client, topic):
        ends = await reading.end_offsets(client, topic, 1)
        with pytest.raises(reading.ReadStalledError) as stalled:  # noqa: PT012 - a loop raises
            async for some in reading.between(client, topic, {0: 0}, ends):
                records += some
    assert f"partition 0 of {topic} beyond offset 1: a producer's transaction" in str(stalled.value)
    assert [record.offset for record in records] == [0]


async def test_progress_behind_an_open_transaction_is_not_guessed(
    client: dict[str, Any],
    topic: str,
    producer: AIOKafkaProducer,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A command gets an error with partition and offset, and not an old record."""
    monkeypatch.setattr(progress_topic, "OPEN_TRANSACTION_WAIT_S", 1)
    await write(producer, topic, RECORD)
    async with open_transaction(client, topic):
        with pytest.raises(reading.ReadStalledError, match=f"partition 0 of {topic} .* offset 1"):
            await progress_topic.read(client, topic)
