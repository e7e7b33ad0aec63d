"""The relay over SASL_SSL: it starts, hands over, recovers and stops as fast as in plain text.

tests/faults has the long cases.
"""

import asyncio
import signal
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import asyncpg
import pytest

from tests.support.faults.tcp import FaultyProxy
from tests.support.parts.brokers import Broker, tls_broker_behind_a_proxy
from tests.support.relay import outbox, writers
from tests.support.relay.worker import Worker
from tests.support.topic import topics
from tests.support.topic.reckoning import reckon
from tests.support.waiting import FAULT_S, last

RECOVERY_S = 10
# The first start and a takeover have the deadline of every recovery. The start is counted from the
# worker's first log line: the interpreter starts as fast without TLS. One connection that waits for
# close_notify takes 30 s.
START_S = TAKE_OVER_S = RECOVERY_S
STOP_S = 10
# A broker that has just started compiles its TLS code at the first handshakes: on a busy machine that
# takes seconds. Before it was mended, the recovery took 50 s and more.
COLD_BROKER_S = 10
FIRST_EVENT_S = 3
FORGOTTEN_AFTER_S = 2
# One thread that stays: a broker ends with the thread that started it.
BESIDE = ThreadPoolExecutor(max_workers=1)

pytestmark = pytest.mark.xdist_group("TLS")


@pytest.fixture(scope="module")
def broker() -> Iterator[Broker]:
    """Yield a broker whose outer listener wants TLS and a password."""
    with tls_broker_behind_a_proxy() as broker:
        yield broker


async def test_starts_is_taken_over_from_and_stops_in_time(
    database: str, broker: Broker, proxy: FaultyProxy
) -> None:
    """Over TLS a first worker leads, a second one takes over after a kill, and then stops."""
    topic = database.rpartition("/")[2]
    await writers.prepare(database)
    settings, kafka = broker.settings, f"127.0.0.1:{proxy.port}"
    with Worker(database, kafka, topic, **settings) as first:
        await first.wait_event("worker.started")
        began = time.monotonic()
        await first.leading()
        assert time.monotonic() - began < START_S
        with Worker(database, kafka, topic, **settings) as second:
            await second.wait_event("worker.state", state="standby")
            async with writers.writing(lambda: database, 1):
                await first.wait_published(20)
                began = time.monotonic()
                first.end(signal.SIGKILL)
                await second.leading()
                assert time.monotonic() - began < TAKE_OVER_S
                await second.wait_published(20)
            await reckon(database, broker.inside, topic)
            began = time.monotonic()
            assert second.end(timeout_s=60) == 0
            assert time.monotonic() - began < STOP_S


async def test_killed_broker_comes_back(database: str, broker: Broker, proxy: FaultyProxy) -> None:
    """Soon after the broker's start events flow again; nothing is lost or comes twice."""
    topic = database.rpartition("/")[2]
    await writers.prepare(database)
    with Worker(database, f"127.0.0.1:{proxy.port}", topic, **broker.settings) as worker:
        await worker.leading()
        async with writers.writing(lambda: database, 1):
            await worker.wait_published(20)
            broker.cluster.kill()
            await last(FAULT_S)
            await asyncio.get_running_loop().run_in_executor(BESIDE, broker.cluster.start)
            began = time.monotonic()
            await worker.wait_working()
            assert time.monotonic() - began < RECOVERY_S + COLD_BROKER_S
        await reckon(database, broker.inside, topic)


async def test_idle_connections_are_forgotten_on_the_way(
    database: str, broker: Broker, proxy: FaultyProxy
) -> None:
    """The first event after a quiet spell is there within 3 s, and no error is told."""
    topic = database.rpartition("/")[2]
    proxy.forget_after_s = FORGOTTEN_AFTER_S
    connection = await asyncpg.connect(database)
    with Worker(database, f"127.0.0.1:{proxy.port}", topic, **broker.settings) as worker:
        await worker.leading()
        await last(FORGOTTEN_AFTER_S + 1)
        async with topics.following(broker.inside, topic) as subscriber:
            await outbox.insert_events(connection, 1)
            began = time.monotonic()
            assert await subscriber.getone()
            assert time.monotonic() - began < FIRST_EVENT_S
        assert proxy.forgotten
        assert "worker.failing" not in worker.output()
    await connection.close()
