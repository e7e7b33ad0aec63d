"""A leader that hangs while a batch is in flight: what it sends after the takeover is refused.

The two workers may differ in their delivery mode, because an operator may be changing it.
"""

import pytest

from tests.acceptance.conftest import delivery
from tests.acceptance.relay.test_several_workers import leader_first
from tests.support.faults.tcp import FaultyProxy
from tests.support.parts.brokers import Broker
from tests.support.relay import writers
from tests.support.relay.worker import Worker
from tests.support.topic import topics
from tests.support.topic.reckoning import reckon, repeated
from tests.support.waiting import BUSY_S, FAULT_S, last

TAKE_OVER_S = 10 + BUSY_S  # 10 s: runbook

pytestmark = pytest.mark.xdist_group("hung leader")
older = newer = delivery


async def test_hung_leader_runs_again_after_the_takeover(
    database: str, broker: Broker, proxy: FaultyProxy, older: str, newer: str
) -> None:
    """After the takeover each event is published once, although the first worker may still send."""
    await writers.prepare(database)
    settings = [{**broker.settings, "OUTBOX_DELIVERY": delivery} for delivery in (older, newer)]
    with Worker(database, proxy.address, **settings[0]) as leader:
        topic = leader.topic
        await leader.leading()
        with Worker(database, proxy.address, **settings[1]) as standby:
            await leader_first(leader, standby)
            async with writers.writing(database):
                await leader.wait_published(100)
                leader.pause()
                await standby.leading(TAKE_OVER_S)
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
