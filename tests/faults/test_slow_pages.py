"""A slow network to Kafka: the page size shrinks until a page is published in time."""

import asyncpg

from tests.support.faults.tcp import FaultyProxy
from tests.support.parts.brokers import Broker
from tests.support.relay.worker import Worker
from tests.support.topic import topics
from tests.support.waiting import last

EVENTS = 20_000
START_S = 120
QUIET_S = 3  # longer than IDLE_S, after which a connection is checked
HOT_KEY = """
INSERT INTO outbox (event_id, event_type, key, payload)
SELECT gen_random_uuid(), 'test.event', 'one key', n::text::bytea
FROM generate_series(1, $1) AS n
"""


async def test_page_that_is_too_slow_is_made_smaller(
    database: str, connection: asyncpg.Connection, broker: Broker, proxy: FaultyProxy, delivery: str
) -> None:
    """Events of one key that fill many small batches are published in order over a slow network."""
    topic = database.rpartition("/")[2]
    await topics.make(broker.inside, topic, 1, {"max.message.bytes": "20000"})
    settings = {**broker.settings, "OUTBOX_DELIVERY": delivery, "OUTBOX_BATCH_SIZE": "20000"}
    with Worker(database, proxy.address, **settings) as worker:
        await worker.leading()
        proxy.delay_s = 0.2
        await connection.execute(HOT_KEY, EVENTS)
        await worker.wait_event("worker.failing", problem="TooSlowError")
        await worker.wait_published(1, timeout_s=120)
        proxy.delay_s = 0.0
        await worker.wait_published(EVENTS, timeout_s=120)
    values = [int(record.value) for record in await topics.read_all(broker.inside, topic)]
    if delivery == "at-least-once":
        values = list(dict.fromkeys(values))
    assert values == list(range(1, EVENTS + 1))


async def test_round_trip_of_half_a_second(
    database: str, connection: asyncpg.Connection, broker: Broker, proxy: FaultyProxy, delivery: str
) -> None:
    """The worker publishes in order, and does not replace a connection because its answers are slow."""
    proxy.delay_s = (
        0.3 if broker.tls is None else 0.2
    )  # in each direction; TLS has more round trips
    settings = {**broker.settings, "OUTBOX_DELIVERY": delivery}
    with Worker(database, proxy.address, **settings) as worker:
        await worker.leading(START_S)
        for number in range(1, 4):
            made = proxy.made
            await connection.execute(HOT_KEY, EVENTS)
            await worker.wait_published(number * EVENTS, timeout_s=120)
            assert proxy.made == made or number == 1
            await last(QUIET_S)
        assert "worker.failing" not in worker.output()
    values = [int(record.value) for record in await topics.read_all(broker.inside, worker.topic)]
    assert values == [*range(1, EVENTS + 1)] * 3
