"""Kafka was unreachable: events are published within ten seconds from its return, over TLS as well."""

from collections.abc import Awaitable, Callable

import pytest

from tests.support.faults.tcp import FaultyProxy
from tests.support.parts.brokers import Broker, beside
from tests.support.relay.load import under_load
from tests.support.waiting import BUSY_S, FAULT_S, last

RECOVERY_S = 10 + BUSY_S
pytestmark = pytest.mark.xdist_group("Kafka comes back")


async def killed(broker: Broker, _: FaultyProxy) -> None:
    """Kill the broker; start it again after FAULT_S."""
    broker.cluster.kill()
    await last(FAULT_S)
    await beside(broker.cluster.start)


async def paused(broker: Broker, _: FaultyProxy) -> None:
    """Let the broker hang."""
    broker.cluster.pause()
    await last(FAULT_S)
    broker.cluster.resume()


async def silent(_: Broker, proxy: FaultyProxy) -> None:
    """Let the network drop all packets."""
    proxy.silence()
    await last(FAULT_S)
    proxy.silence(silent=False)


async def replaced(_: Broker, proxy: FaultyProxy) -> None:
    """Let open connections pass nothing on any more, as when an address moves to another host."""
    proxy.forget()


Fault = Callable[[Broker, FaultyProxy], Awaitable[None]]
FAULTS = {"killed": killed, "paused": paused, "silent": silent, "replaced": replaced}


@pytest.mark.parametrize("fault", FAULTS.values(), ids=FAULTS)
async def test_events_are_published_within_ten_seconds(
    database: str, broker: Broker, proxy: FaultyProxy, fault: Fault
) -> None:
    """After each fault events are published; none is lost, and none is repeated."""
    async with under_load(
        database,
        proxy.address,
        inside=broker.inside,
        **broker.settings,
    ) as worker:
        await fault(broker, proxy)
        await worker.wait_working(RECOVERY_S)
    assert bool(proxy.forgotten) == (fault is replaced)
