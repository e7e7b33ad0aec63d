"""Topics that change while a worker runs: deleted, made again, and written by other producers."""

import asyncio
import signal
from uuid import uuid4

import asyncpg
import pytest
from aiokafka import AIOKafkaProducer

from tests.support.parts.postgres import until_published
from tests.support.relay import outbox
from tests.support.relay.worker import Worker
from tests.support.topic import topics

OPEN_FOR_MS = 600_000  # longer than the test: brokers abort an older transaction
PARTITIONS = 12  # as the worker makes the topic
# The first key's partition has a record before the topic is made again; the second key's has none.
KEYS = ("key/1", "another/7")


async def publish_one(connection: asyncpg.Connection, kafka: str, topic: str) -> None:
    """Write an event; return when it is in the topic."""
    await outbox.insert_event(connection, KEYS[0], "1")
    await topics.wait_for_count(kafka, topic, 1)


@pytest.fixture
async def published(
    worker: Worker, connection: asyncpg.Connection, kafka: str, topic: str
) -> Worker:
    """Return a leading worker that has published one event."""
    await worker.leading()
    await publish_one(connection, kafka, topic)
    return worker


async def make_again(kafka: str, topic: str) -> None:
    """Delete the topic, and make another one with the same name."""
    await topics.delete(kafka, topic)
    await topics.make(kafka, topic, PARTITIONS, {})


async def progress_topic(connection: asyncpg.Connection, topic: str) -> str:
    """Return the name of the relay's progress topic."""
    return f"{topic}.progress.{await connection.fetchval('SELECT name FROM outbox_relay')}"


async def test_event_topic_made_anew_while_the_leader_idles(
    database: str, kafka: str, topic: str, connection: asyncpg.Connection, delivery: str
) -> None:
    """Nothing is published to a new topic until an operator accepts it; then the waiting event is."""
    key = KEYS[delivery == "exactly-once"]
    with Worker(database, kafka, topic, OUTBOX_DELIVERY=delivery) as worker:
        await worker.leading()
        await publish_one(connection, kafka, topic)
        await make_again(kafka, topic)
        await outbox.insert_event(connection, key, "2")
        failing = await worker.wait_event("worker.failing", problem="TopicLostError")
        assert "--accept-topic" in failing["detail"]
        assert (await worker.get("/readyz")).status_code == 503
        worker.end()
        worker.start()  # the progress record has the id of the old topic
        await worker.wait_event("worker.failing", problem="TopicLostError")
        worker.end()
        assert await topics.read_all(kafka, topic) == []
        worker.start("--accept-topic")
        records = await topics.wait_for_count(kafka, topic, 1)
        assert [record.value for record in records] == [b"2"]
        worker.end()
        worker.start()
        assert (await worker.wait_event("relay.started"))["source"] == "progress"


AS_COPIED = """
UPDATE outbox_relay SET system_identifier = '1';
UPDATE outbox SET created_at = created_at - interval '1 hour';
"""


@pytest.mark.parametrize("rebased", [False, True])
async def test_longer_topic_of_the_same_name_is_recognised(
    published: Worker, connection: asyncpg.Connection, kafka: str, topic: str, *, rebased: bool
) -> None:
    """A new topic is recognised by its id, although its end offsets are above the known ones."""
    published.end()
    if rebased:
        await connection.execute(AS_COPIED)
        assert published.command("rebase", "--yes") == 0, published.output()
    await make_again(kafka, topic)
    async with AIOKafkaProducer(bootstrap_servers=kafka) as stranger:
        for partition in range(PARTITIONS):
            for _ in range(5):
                await stranger.send_and_wait(topic, b"another producer's", partition=partition)
    published.start()
    failing = await published.wait_event("worker.failing", problem="TopicLostError")
    assert "made again" in failing["detail"]


async def test_event_topic_deleted_while_a_backlog_is_published(
    database: str, kafka: str, topic: str, connection: asyncpg.Connection, delivery: str
) -> None:
    """A deleted topic is reported as lost; exactly once, nothing is published to the new one."""
    await outbox.insert_events(connection, 60_000)
    settings = {"OUTBOX_BATCH_SIZE": "500", "OUTBOX_DELIVERY": delivery}
    with Worker(database, kafka, topic, **settings) as worker:
        await worker.wait_published(2_000)
        await make_again(kafka, topic)
        await outbox.insert_event(connection, "last", "0")  # if the backlog has come to its end
        await worker.wait_event("worker.failing", problem="TopicLostError")
        worker.end()
    if delivery == "exactly-once":
        assert await topics.read_all(kafka, topic) == []


async def test_progress_topic_deleted_while_the_leader_idles(
    published: Worker, kafka: str, topic: str, connection: asyncpg.Connection
) -> None:
    """No event is lost, neither by the running leader nor by the next start."""
    name = await progress_topic(connection, topic)
    await topics.delete(kafka, name)
    await outbox.insert_event(connection, KEYS[1], "2")
    await topics.wait_for_count(kafka, topic, 2)
    published.end(signal.SIGKILL)
    published.start()
    await outbox.insert_event(connection, "last", "3")
    await until_published(published, kafka, topic, "3")
    assert set(await topics.payloads(kafka, topic)) == {b"1", b"2", b"3"}


STRAYS = [b"not JSON", b"{}", b'{"s0": 1}', None, b"\x00\x1b[2J", bytes(900_000)]


async def test_stray_records_on_the_progress_topic(
    published: Worker, kafka: str, topic: str, connection: asyncpg.Connection
) -> None:
    """A start skips stray records with a warning and repeats no event; `doctor` counts the records."""
    published.end(signal.SIGKILL)
    name = await progress_topic(connection, topic)
    async with AIOKafkaProducer(bootstrap_servers=kafka) as stranger:
        for value in STRAYS:
            await stranger.send_and_wait(name, value, key=b"cursor")
    assert published.command("status") == 0
    assert published.command("doctor") == 1
    assert f"{len(STRAYS)} records of {name} are no progress records" in published.output()
    published.start()
    assert (await published.wait_event("relay.started"))["source"] == "progress"
    warning = await published.wait_event("progress.stray_records", level="warning")
    assert (warning["records"], warning["topic"]) == (len(STRAYS), name)
    await outbox.insert_event(connection, KEYS[1], "2")
    records = await topics.wait_for_count(kafka, topic, 2)
    assert sorted(record.value for record in records) == [b"1", b"2"]
    assert "Traceback" not in published.output()


async def test_open_transaction_on_the_progress_topic(
    database: str, kafka: str, topic: str, connection: asyncpg.Connection
) -> None:
    """An open transaction may hide progress, so the worker starts from the checkpoint and logs why."""
    with Worker(database, kafka, topic) as worker:
        await worker.leading()
        name = await progress_topic(connection, topic)
        stranger = AIOKafkaProducer(
            bootstrap_servers=kafka,
            transactional_id=uuid4().hex,
            transaction_timeout_ms=OPEN_FOR_MS,
        )
        async with stranger:
            await stranger.begin_transaction()
            await stranger.send_and_wait(name, b"another producer's", key=b"cursor")
            await publish_one(connection, kafka, topic)
            worker.end(signal.SIGKILL)
            verifying = asyncio.create_task(asyncio.to_thread(worker.command, "verify"))
            worker.start()
            started = await worker.wait_event("relay.started", level="warning")
            assert started["source"] == "checkpoint"
            assert "open transaction hides the end" in started["reason"]
            assert await verifying == 1
            assert f"cannot read partition 0 of {name} beyond offset" in worker.output()
            await stranger.abort_transaction()
        records = await topics.wait_for_count(kafka, topic, 2)
        assert {record.value for record in records} == {b"1"}


async def test_relay_that_never_published_starts_without_a_warning(
    database: str, kafka: str, topic: str
) -> None:
    """Each start of a relay that has published nothing is from its progress record, without a warning."""
    with Worker(database, kafka, topic) as worker:
        await worker.leading()
        for number in (signal.SIGKILL, signal.SIGTERM):
            worker.end(number)
            worker.start()
            started = await worker.wait_event("relay.started")
            assert (started["source"], started["level"]) == ("progress", "info")
