"""Connections to Kafka that are open and useless: forgotten on the way while they were idle."""

import time

import asyncpg
import pytest

from tests.support.faults.tcp import FaultyProxy
from tests.support.parts.brokers import Broker
from tests.support.relay import outbox
from tests.support.relay.worker import Worker
from tests.support.topic import topics
from tests.support.waiting import last

FIRST_EVENT_S = 3

pytestmark = pytest.mark.xdist_group("quiet Kafka")


@pytest.mark.parametrize("after_s", [5, 20])
async def test_first_event_after_a_quiet_spell_is_there_within_three_seconds(
    database: str,
    broker: Broker,
    proxy: FaultyProxy,
    delivery: str,
    after_s: float,
) -> None:
    """A NAT forgets the worker's idle connections; the next event replaces them, without an error."""
    topic = database.rpartition("/")[2]
    proxy.forget_after_s = after_s
    settings = {**broker.settings, "OUTBOX_DELIVERY": delivery}
    connection = await asyncpg.connect(database)
    with Worker(database, f"127.0.0.1:{proxy.port}", topic, **settings) as worker:
        await worker.leading()
        for spell in (1, 2):
            await outbox.insert_events(connection, 1)
            began = time.monotonic()
            await topics.wait_for_count(broker.inside, topic, spell)
            assert time.monotonic() - began < FIRST_EVENT_S
            assert bool(proxy.forgotten) == (spell == 2)
            await last(after_s + 1)
        failing = [said for said in worker.log() if said["event"] == "worker.failing"]
    assert failing == []
    await connection.close()
