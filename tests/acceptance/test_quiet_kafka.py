"""Connections to Kafka that are open and useless: forgotten on the way while they were idle."""

import time
from collections.abc import AsyncIterator

import asyncpg
import pytest

from tests import outbox, topics
from tests.brokers import Broker
from tests.line import Line
from tests.waiting import last
from tests.worker import Worker

FORGOTTEN_AFTER_S = 2
FIRST_EVENT_S = 3

pytestmark = pytest.mark.xdist_group("a line to Kafka")


@pytest.fixture
async def connection(database: str) -> AsyncIterator[asyncpg.Connection]:
    """Yield a writer's connection."""
    connection = await asyncpg.connect(database)
    yield connection
    await connection.close()


async def test_first_event_after_a_quiet_spell_is_there_within_three_seconds(
    database: str, connection: asyncpg.Connection, broker: Broker, line: Line, delivery: str
) -> None:
    """A NAT forgets the worker's idle connections; the next event replaces them, without an error."""
    topic = database.rpartition("/")[2]
    line.forget_after_s = FORGOTTEN_AFTER_S
    kafka = f"127.0.0.1:{line.port}"
    with Worker(database, kafka, topic, OUTBOX_DELIVERY=delivery) as worker:
        await worker.leading()
        for spell in (1, 2):
            await outbox.insert_events(connection, 1)
            began = time.monotonic()
            await topics.wait_for_count(broker.inside, topic, spell)
            assert time.monotonic() - began < FIRST_EVENT_S
            assert bool(line.forgotten) == (spell == 2)
            await last(FORGOTTEN_AFTER_S + 1)
        failing = [said for said in worker.log() if said["event"] == "worker.failing"]
    assert failing == []
