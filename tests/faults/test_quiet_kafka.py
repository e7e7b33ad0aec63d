"""Connections to Kafka that a NAT forgot while they were idle: open, but nothing passes."""

import asyncpg
import pytest

from tests.support.faults.tcp import FaultyProxy
from tests.support.parts.brokers import Broker
from tests.support.relay import outbox
from tests.support.relay.worker import Worker
from tests.support.topic import topics
from tests.support.waiting import BUSY_S, last

# Before two idle connections are used they are checked for 1.5 s each (LONGEST_ANSWER_S), and replaced.
FIRST_EVENT_S = 3 + BUSY_S

pytestmark = pytest.mark.xdist_group("quiet Kafka")


@pytest.mark.parametrize("after_s", [5, 20])
async def test_first_event_after_a_quiet_time(
    database: str,
    broker: Broker,
    proxy: FaultyProxy,
    delivery: str,
    after_s: float,
) -> None:
    """The next event after a NAT forgot the worker's connections is published without an error."""
    proxy.forget_after_s = after_s
    settings = {**broker.settings, "OUTBOX_DELIVERY": delivery}
    connection = await asyncpg.connect(database)
    with Worker(database, proxy.address, **settings) as worker:
        await worker.leading()
        for number in (1, 2):
            await outbox.insert_events(connection, 1)
            await topics.wait_for_count(broker.inside, worker.topic, number, FIRST_EVENT_S)
            assert bool(proxy.forgotten) == (number == 2)
            await last(after_s + 1)
        failing = [line for line in worker.log() if line["event"] == "worker.failing"]
    assert failing == []
    await connection.close()
