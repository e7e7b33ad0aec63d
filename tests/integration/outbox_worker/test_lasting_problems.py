"""A problem of the relay that lasts is logged once for each class of error, not at each attempt to lead."""

import asyncio
import logging
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import asyncpg
import pytest

from deploy.local.process import free_port
from outbox_worker.relay.health import Health
from outbox_worker.relay.metrics import Metrics
from outbox_worker.relay.process import Relay
from outbox_worker.settings import read
from tests.support.relay import outbox
from tests.support.topic import topics
from tests.support.waiting import until

FIRST, LAST = 3, 7
"""Attempts after which the log is compared: from the first of these numbers on it must not grow."""
LARGEST = 500
"""The topic's `max.message.bytes`, which the event of a test exceeds."""


@asynccontextmanager
async def relay(database: str, kafka: str, topic: str) -> AsyncIterator[Metrics]:
    """Run a relay without its HTTP pages."""
    settings = read(
        {
            "DATABASE_URL": database,
            "KAFKA_BOOTSTRAP_SERVERS": kafka,
            "OUTBOX_TOPIC": topic,
            "OUTBOX_PARTITIONS": "1",
            "OUTBOX_COMPRESSION": "none",  # brokers compare the compressed size with the limit
        }
    )
    stop, metrics = asyncio.Event(), Metrics()
    running = asyncio.create_task(Relay(settings, stop, Health(), metrics).run())
    try:
        yield metrics
    finally:
        stop.set()
        await running


async def after(attempts: int, metrics: Metrics, caplog: pytest.LogCaptureFixture) -> Counter[str]:
    """Wait for so many failed attempts; return the log lines as events with their problems."""

    async def failed() -> bool:
        samples = [each for family in metrics.errors.collect() for each in family.samples]
        return sum(each.value for each in samples if each.name.endswith("_total")) >= attempts

    await until(failed)
    lines = [vars(each) for each in caplog.records if each.name.startswith("outbox_worker")]
    return Counter(f"{line['message']} {line.get('problem', '')}" for line in lines)


async def test_an_unreachable_kafka_is_logged_once(
    database: str, topic: str, caplog: pytest.LogCaptureFixture
) -> None:
    """Without Kafka the relay tries again and again, and each class of error has one line."""
    caplog.set_level(logging.INFO, logger="outbox_worker")
    async with relay(database, f"127.0.0.1:{free_port()}", topic) as metrics:
        lines = await after(LAST, metrics, caplog)
    assert {line.partition(" ")[0] for line in lines} == {"worker.failing"}
    assert set(lines.values()) == {1}


async def test_a_leader_that_always_fails_is_logged_once(
    database: str,
    kafka: str,
    topic: str,
    connection: asyncpg.Connection,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """The worker leads and fails at the same event again and again, and the log does not grow."""
    caplog.set_level(logging.INFO, logger="outbox_worker")
    await topics.make(kafka, topic, 1, {"max.message.bytes": str(LARGEST)})
    await outbox.insert_event(connection, "key", "x" * 2 * LARGEST)
    async with relay(database, kafka, topic) as metrics:
        first = await after(FIRST, metrics, caplog)
        assert await after(LAST, metrics, caplog) == first
        assert first["worker.failing MessageSizeTooLargeError"] == 1
        await topics.configure(kafka, topic, {"max.message.bytes": "100000"})
        await topics.wait_for_count(kafka, topic, 1)
    events = [each.getMessage() for each in caplog.records]
    assert events.index("worker.recovered") < len(events) - 1 - events[::-1].index("worker.state")
    assert [vars(each) for each in caplog.records if each.getMessage() == "worker.state"][-1][
        "state"
    ] == "leading"
