"""The relay over SASL_SSL: it starts, hands over, recovers and stops in the time that it has in plain text.

tests/faults has the long cases.
"""

import signal
from collections.abc import Iterator

import asyncpg
import pytest

from tests.support.faults.tcp import FaultyProxy
from tests.support.parts.brokers import Broker, beside, tls_broker_behind_a_proxy
from tests.support.relay import outbox, writers
from tests.support.relay.load import under_load
from tests.support.relay.worker import Worker
from tests.support.topic import topics
from tests.support.topic.reckoning import reckon
from tests.support.waiting import BUSY_S, FAULT_S, last, until

# The worker leads, leads again and stops within 10 s (README, runbook). A connection that is closed with
# TLS' close_notify, which the broker does not answer, would take 30 s.
START_S = TAKE_OVER_S = STOP_S = 10 + BUSY_S
# 10 s, and the time in which a restarted broker compiles its TLS code. A worker that did not renew its
# connections needed 50 s.
RECOVERY_S = 20 + BUSY_S
FORGOTTEN_AFTER_S = 2
# Before two idle connections are used they are checked for 1.5 s each (LONGEST_ANSWER_S), and replaced.
FIRST_EVENT_S = 3 + BUSY_S

pytestmark = pytest.mark.xdist_group("TLS")


@pytest.fixture(scope="module")
def broker() -> Iterator[Broker]:
    """Yield a broker whose outer listener requires TLS and a password."""
    with tls_broker_behind_a_proxy() as broker:
        yield broker


async def test_starts_is_taken_over_from_and_stops_in_time(
    database: str, broker: Broker, proxy: FaultyProxy
) -> None:
    """Over TLS a first worker leads, a second one takes over after a kill, and then stops."""
    await writers.prepare(database)
    with Worker(database, proxy.address, **broker.settings) as first:
        await first.wait_event("worker.started")
        await first.leading(START_S)
        with Worker(database, proxy.address, **broker.settings) as second:
            await second.wait_event("worker.state", state="standby")
            async with writers.writing(database):
                await first.wait_published(20)
                first.end(signal.SIGKILL)
                await second.leading(TAKE_OVER_S)
                await second.wait_published(20)
            await reckon(database, broker.inside, second.topic)
            second.send(signal.SIGTERM)
            await until(second.ended, STOP_S)
            assert second.end() == 0


async def test_killed_broker_comes_back(database: str, broker: Broker, proxy: FaultyProxy) -> None:
    """After the broker's restart events are published again; none is lost or repeated."""
    async with under_load(
        database, proxy.address, inside=broker.inside, **broker.settings
    ) as worker:
        broker.cluster.kill()
        await last(FAULT_S)
        await beside(broker.cluster.start)
        await worker.wait_working(RECOVERY_S)


async def test_first_event_after_idle_connections_were_forgotten(
    database: str, connection: asyncpg.Connection, broker: Broker, proxy: FaultyProxy
) -> None:
    """The first event after a quiet time is published in time, and no error is logged."""
    proxy.forget_after_s = FORGOTTEN_AFTER_S
    with Worker(database, proxy.address, **broker.settings) as worker:
        await worker.leading()
        await last(FORGOTTEN_AFTER_S + 1)
        await outbox.insert_events(connection, 1)
        await topics.wait_for_count(broker.inside, worker.topic, 1, FIRST_EVENT_S)
        assert proxy.forgotten
        assert "worker.failing" not in worker.output()
