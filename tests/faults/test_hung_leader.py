"""A leader that hangs while its batch is on its way: nothing that it sends later counts.

The two workers may differ in their delivery mode, as while an operator changes it.
"""

import time

import pytest

from tests.acceptance.conftest import delivery
from tests.acceptance.relay.test_several_workers import leader_first
from tests.support.faults.tcp import FaultyProxy
from tests.support.parts.brokers import Broker
from tests.support.relay import writers
from tests.support.relay.worker import Worker
from tests.support.topic import topics
from tests.support.topic.reckoning import reckon, repeated
from tests.support.waiting import FAULT_S, last

TAKE_OVER_S = 20  # 10 in plain text on an idle machine, see the acceptance tests

pytestmark = pytest.mark.xdist_group("hung leader")
older = newer = delivery


async def test_leader_wakes_up_after_another_one_took_over(
    database: str, broker: Broker, proxy: FaultyProxy, older: str, newer: str
) -> None:
    """From the takeover on each event comes once, whatever the first worker still has to send."""
    topic = database.rpartition("/")[2]
    await writers.prepare(database)
    kafka = f"127.0.0.1:{proxy.port}"
    settings = [{**broker.settings, "OUTBOX_DELIVERY": delivery} for delivery in (older, newer)]
    with Worker(database, kafka, topic, **settings[0]) as leader:
        await leader.leading()
        with Worker(database, kafka, topic, **settings[1]) as standby:
            await leader_first(leader, standby)
            async with writers.writing(lambda: database, 2):
                await leader.wait_published(100)
                began = time.monotonic()
                leader.pause()
                await standby.leading()
                assert time.monotonic() - began < TAKE_OVER_S
                await standby.wait_working()
                taken_over = await topics.ends(broker.inside, topic)
                await last(FAULT_S / 2)
                leader.resume()
                await leader.wait_event("worker.state", state="standby")
                await standby.wait_working()
            await reckon(database, broker.inside, topic, "at-least-once")
            assert '"exception"' not in leader.output() + standby.output()
    twice = repeated(await topics.read_all(broker.inside, topic))
    assert [each for each in twice if each.offset >= taken_over[each.partition]] == []
    assert not twice or older == "at-least-once"
