"""The publisher: the guarantees that the relay needs and aiokafka lacks."""

import asyncio
from collections.abc import AsyncIterator, Callable
from typing import Any
from uuid import uuid4

import pytest
from aiokafka.errors import MessageSizeTooLargeError

from outbox_worker.kafka import administration, producers
from outbox_worker.kafka import publisher as module
from outbox_worker.kafka.publisher import Destination, FencedError, Publisher
from outbox_worker.postgres.registration import Registration
from outbox_worker.settings import Settings, read
from tests.support.topic import topics
from tests.support.waiting import until

# Of its own for each process: tests that run side by side must not fence one another.
RELAY = Registration(uuid4().hex, "1", 1, 3)
Start = Callable[..., Any]
DELIVERIES = ["exactly-once", "at-least-once"]


def rows(values: list[str], key: str = "key") -> list[tuple[int, str, bytes, str | None]]:
    """Return rows with the columns of a page."""
    return [(n, f"{key}/{n}", value.encode(), None) for n, value in enumerate(values)]


@pytest.fixture
async def settings(kafka: str, topic: str) -> Settings:
    """Return settings for topics that exist; the event topic has three partitions."""
    settings = read(
        {
            "DATABASE_URL": "postgresql://unused",
            "KAFKA_BOOTSTRAP_SERVERS": kafka,
            "OUTBOX_TOPIC": topic,
        }
    )
    await topics.make(kafka, topic, RELAY.partitions, {})
    await topics.make(kafka, RELAY.progress_topic(topic), 1, administration.PROGRESS_TOPIC)
    return settings


@pytest.fixture
async def start(settings: Settings) -> AsyncIterator[Start]:
    """Yield a function that starts a publisher, closed when the test ends."""
    started: list[Publisher] = []

    async def begin(
        batch_bytes: int = module.BATCH_BYTES, delivery: str = "exactly-once"
    ) -> Publisher:
        publisher = Publisher(
            settings.kafka_client(),
            Destination(settings.topic, RELAY.progress_topic(settings.topic), 3, RELAY.name),
            transactional=delivery == "exactly-once",
            max_batch_size=batch_bytes,
        )
        started.append(publisher)
        return await publisher.start()

    yield begin
    for publisher in started:
        await publisher.close()


async def publish(publisher: Publisher, values: list[str], progress: bytes) -> dict[int, int]:
    """Publish one page."""
    return await publisher.publish(await publisher.pack(rows(values)), progress)


async def committed(kafka: str, topic: str, count: int) -> list[bytes]:
    """Return the payloads in the topic, sorted, once there are so many.

    A commit returns before all partitions have its marker.
    """
    records = await topics.wait_for_count(kafka, topic, count)
    return sorted(record.value for record in records)


async def last_progress(settings: Settings) -> bytes | None:
    """Return the last committed value of the progress topic."""
    values = await topics.payloads(settings.bootstrap_servers, RELAY.progress_topic(settings.topic))
    return values[-1] if values else None


async def until_progress(settings: Settings, value: bytes) -> None:
    """Return when this is the last committed value of the progress topic."""

    async def is_last() -> bool:
        return await last_progress(settings) == value

    await until(is_last)


async def test_rows_and_progress_are_committed_together(
    settings: Settings, start: Start, kafka: str
) -> None:
    """After a publish a committed reader has every row, and the progress record is the last."""
    publisher = await start()
    await publish(publisher, ["a", "b", "c"], b"1")
    await publish(publisher, ["d"], b"2")
    assert await committed(kafka, settings.topic, 4) == [b"a", b"b", b"c", b"d"]
    await until_progress(settings, b"2")


async def test_highest_offsets_are_returned(settings: Settings, start: Start, kafka: str) -> None:
    """The offsets are those of the last records, as a reader sees them."""
    publisher = await start()
    offsets = await publish(publisher, [str(n) for n in range(50)], b"1")
    records = await topics.wait_for_count(kafka, settings.topic, 50)
    last = {record.partition: record.offset for record in records}
    assert offsets == last


@pytest.mark.parametrize("newer", DELIVERIES)
@pytest.mark.parametrize("older", DELIVERIES)
async def test_newer_publisher_fences_the_older(
    settings: Settings, start: Start, kafka: str, older: str, newer: str
) -> None:
    """In either delivery mode the older one's next publish fails, and none of its rows is read."""
    first = await start(delivery=older)
    await publish(first, ["a"], b"1")
    second = await start(delivery=newer)
    with pytest.raises(FencedError):
        await publish(first, ["b", "c", "d", "e"], b"2")
    await publish(second, ["f"], b"3")
    assert await committed(kafka, settings.topic, 2) == [b"a", b"f"]
    await until_progress(settings, b"3")


async def test_close_ends_the_open_transaction_at_once(
    settings: Settings, start: Start, kafka: str
) -> None:
    """After a failed publish, committed readers continue before the transaction's time-out."""
    await topics.configure(kafka, settings.topic, {"max.message.bytes": "30000"})
    publisher = await start()
    with pytest.raises(MessageSizeTooLargeError):
        await publish(publisher, ["x" * 16_000] * 12, b"1")
    await publisher.close()

    async def nothing_open() -> bool:
        return await topics.no_transaction_open(kafka, settings.topic)

    await until(nothing_open, producers.TRANSACTION_TIMEOUT_MS / 2000)


async def test_publisher_is_replaced_long_before_its_id_expires(
    start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After a day the publisher must be replaced, even if it has sent few records."""
    publisher = await start()
    assert not publisher.must_be_replaced
    monkeypatch.setattr(module, "PRODUCER_AGE_S", 0)
    assert publisher.must_be_replaced


async def test_open_transaction_of_the_older_is_ended(
    settings: Settings, start: Start, kafka: str
) -> None:
    """The open transaction of a dead relay is aborted before the newer one reads."""
    older = await start()
    await older._producer.begin_transaction()  # noqa: SLF001 - dies in the middle of publish()
    for batches in await older.pack(rows(["lost"])):
        await asyncio.gather(
            *(sent.acknowledgement for sent in await older._send(batches))  # noqa: SLF001 - as above
        )
    await (await older._send_progress(b"lost"))  # noqa: SLF001 - as above
    newer = await start()
    assert await last_progress(settings) is None
    await publish(newer, ["kept"], b"1")
    assert await committed(kafka, settings.topic, 1) == [b"kept"]


async def test_batch_that_the_topic_refuses_fails_the_whole_transaction(
    settings: Settings, start: Start, kafka: str
) -> None:
    """The publisher raises an error where aiokafka would commit the rest; a smaller batch is accepted."""
    await topics.configure(kafka, settings.topic, {"max.message.bytes": "30000"})
    values = [str(n) * 1_000 for n in range(10)] + ["x" * 16_000] * 12
    publisher = await start()
    with pytest.raises(MessageSizeTooLargeError):
        await publish(publisher, values, b"1")
    await publisher.close()
    assert await topics.payloads(kafka, settings.topic) == []
    assert await last_progress(settings) is None
    smaller = await start(batch_bytes=20_000)
    await publish(smaller, values, b"1")
    assert len(await committed(kafka, settings.topic, len(values))) == len(values)


async def test_page_larger_than_a_batch_stays_in_order(
    settings: Settings, start: Start, kafka: str
) -> None:
    """Rows of one key that fill several batches are published in order."""
    publisher = await start(batch_bytes=20_000)
    page = [(n, "one key", f"{n:05}{'x' * 500}".encode(), None) for n in range(400)]
    await publisher.publish(await publisher.pack(page), b"1")
    records = await topics.wait_for_count(kafka, settings.topic, 400)
    values = [int(record.value[:5]) for record in records]
    assert values == list(range(400))


async def test_the_context_of_a_call_becomes_headers(
    settings: Settings, start: Start, kafka: str
) -> None:
    """A record has the headers `traceparent` and `tracestate` if its row and its event have them."""
    publisher = await start()
    event = b'{"data":{"role":",\\"tracestate\\":\\"x"}'
    state = b',"tracestate":"a=\\"1\\",b=2"'
    page = [
        (1, "k", b"with", "00-ab-cd-01"),
        (2, "k", event + state + b"}", "00-ab-cd-01"),
        (3, "k", event + b"}", "00-ab-cd-01"),
        (4, "k", b"without", None),
    ]
    await publisher.publish(await publisher.pack(page), b"1")
    records = await topics.wait_for_count(kafka, settings.topic, 4)
    content, *_ = records[3].headers
    assert [[*record.headers] for record in records] == [
        [content, ("traceparent", b"00-ab-cd-01")],
        [content, ("traceparent", b"00-ab-cd-01"), ("tracestate", b'a="1",b=2')],
        [content, ("traceparent", b"00-ab-cd-01")],
        [content],
    ]


async def test_publisher_is_replaced_long_before_sequence_numbers_wrap(
    start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After RECORDS_A_PRODUCER records in one partition, the publisher must be replaced."""
    monkeypatch.setattr(module, "RECORDS_A_PRODUCER", 10)
    publisher = await start()
    await publish(publisher, ["a"] * 9, b"1")
    assert not publisher.must_be_replaced
    await publisher.publish(await publisher.pack([(1, "k", b"v", None)] * 10), b"2")
    assert publisher.must_be_replaced


async def test_progress_is_found_behind_aborted_records(settings: Settings, start: Start) -> None:
    """The last committed record is found after many aborted ones."""
    publisher = await start()
    await publish(publisher, ["a"], b"committed")
    for _ in range(30):
        await publisher._producer.begin_transaction()  # noqa: SLF001 - to abort it
        await (await publisher._send_progress(b"aborted"))  # noqa: SLF001 - as above
        await publisher._producer.abort_transaction()  # noqa: SLF001 - as above
    await until_progress(settings, b"committed")


async def test_missing_topic_is_not_made_by_a_check(kafka: str, topic: str) -> None:
    """The check whether a topic exists does not make the topic."""
    async with administration.connect({"bootstrap_servers": kafka}) as client:
        assert not await client.exists(topic)
        assert not await client.exists(topic)
        assert await client.ensure(topic, 2, administration.EVENT_TOPIC)
        assert await client.exists(topic)
        assert not await client.ensure(topic, 2, administration.EVENT_TOPIC)
        assert await client.partitions(topic) == 2
        assert (await client.configs(topic))["retention.ms"] == "-1"
