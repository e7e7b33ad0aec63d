"""Kafka was unreachable and works again: events flow within ten seconds, over TLS as in plain text."""

import asyncio
import time
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor

import pytest

from tests.support.faults.tcp import FaultyProxy
from tests.support.parts.brokers import Broker
from tests.support.relay import writers
from tests.support.relay.worker import Worker
from tests.support.topic.reckoning import reckon
from tests.support.waiting import FAULT_S, last

RECOVERY_S = 10
# One thread that stays: a broker ends with the thread that started it.
BESIDE = ThreadPoolExecutor(max_workers=1)
pytestmark = pytest.mark.xdist_group("Kafka comes back")


async def killed(broker: Broker, _: FaultyProxy) -> None:
    """Kill the broker; start it again after a while."""
    broker.cluster.kill()
    await last(FAULT_S)
    await asyncio.get_running_loop().run_in_executor(BESIDE, broker.cluster.start)


async def paused(broker: Broker, _: FaultyProxy) -> None:
    """Let the broker hang for a while."""
    broker.cluster.pause()
    await last(FAULT_S)
    broker.cluster.resume()


async def silent(_: Broker, proxy: FaultyProxy) -> None:
    """Let the network drop everything for a while."""
    proxy.silence()
    await last(FAULT_S)
    proxy.silence(silent=False)


async def replaced(_: Broker, proxy: FaultyProxy) -> None:
    """Let every connection that is open lead nowhere, as when an address moves to another host."""
    proxy.forget()


Fault = Callable[[Broker, FaultyProxy], Awaitable[None]]
FAULTS = {"killed": killed, "paused": paused, "silent": silent, "replaced": replaced}


@pytest.mark.parametrize("fault", FAULTS.values(), ids=FAULTS)
async def test_events_flow_within_ten_seconds(
    database: str, broker: Broker, proxy: FaultyProxy, fault: Fault
) -> None:
    """From the moment at which Kafka works again; nothing is lost, and nothing comes twice."""
    topic = database.rpartition("/")[2]
    await writers.prepare(database)
    with Worker(database, f"127.0.0.1:{proxy.port}", topic, **broker.settings) as worker:
        await worker.leading()
        async with writers.writing(lambda: database, 1):
            await worker.wait_published(20)
            await fault(broker, proxy)
            began = time.monotonic()
            await worker.wait_working()
            assert bool(proxy.forgotten) == (fault is replaced)
            assert time.monotonic() - began < RECOVERY_S
        await reckon(database, broker.inside, topic)
