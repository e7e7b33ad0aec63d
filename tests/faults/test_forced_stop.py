"""SIGTERM while the broker does not answer: the worker ends in time and leaves no transaction open."""

import signal
from collections.abc import Iterator

import asyncpg
import pytest

from tests.faults.conftest import DOORS
from tests.support.faults.kafka import END_TXN, PRODUCE, KafkaProxy
from tests.support.parts.brokers import Broker
from tests.support.relay import outbox
from tests.support.relay.worker import Worker
from tests.support.topic import topics
from tests.support.waiting import BUSY_S, until

EVENTS = 100
STOP_S = 10 + BUSY_S  # 10 s: README
NEVER = {"transaction.abort.timed.out.transaction.cleanup.interval.ms": "3600000"}

pytestmark = pytest.mark.xdist_group("forced stop")


@pytest.fixture(scope="module", params=DOORS)
def broker(request: pytest.FixtureRequest) -> Iterator[Broker]:
    """Yield a broker that does not abort old transactions, so that only the worker can end them."""
    with DOORS[request.param](NEVER) as broker:
        yield broker


@pytest.mark.parametrize(
    "held_back", [("request", PRODUCE), ("response", PRODUCE), ("request", END_TXN)]
)
async def test_stop_while_a_batch_is_held_back(
    database: str,
    broker: Broker,
    watched: KafkaProxy,
    delivery: str,
    held_back: tuple[str, int],
) -> None:
    """The worker exits with 0 in time, readers are not blocked, and the next start publishes all events."""
    settings = {**broker.settings, "OUTBOX_DELIVERY": delivery}
    seen: list[tuple[str, int]] = []

    async def hold_back(way: str, api: int) -> bool:
        first = (way, api) not in seen
        seen.append((way, api))
        return (way, api) != held_back or (api == END_TXN and not first)  # a later one is the abort

    connection = await asyncpg.connect(database)
    with Worker(database, watched.address, **settings) as worker:
        topic = worker.topic
        await worker.leading()
        watched.watch = hold_back
        watched.cut()  # connections whose messages were read before the watch began
        await outbox.insert_events(connection, EVENTS)
        if delivery == "at-least-once" and held_back[1] == END_TXN:
            await topics.wait_for_count(broker.inside, topic, EVENTS)
        else:
            await until(lambda: _is_in(held_back, seen))
        worker.send(signal.SIGTERM)
        await until(worker.ended, STOP_S)
        assert worker.end() == 0
        assert '"exception"' not in worker.output()
        await until(lambda: topics.no_transaction_open(broker.inside, topic))
        watched.watch = None
        worker.start()
        values = await topics.wait_for_count(broker.inside, topic, EVENTS)
    await connection.close()
    assert sorted({int(record.value) for record in values}) == list(range(1, EVENTS + 1))
    assert len(values) == EVENTS or delivery == "at-least-once"


async def _is_in(sought: tuple[str, int], seen: list[tuple[str, int]]) -> bool:
    return sought in seen
