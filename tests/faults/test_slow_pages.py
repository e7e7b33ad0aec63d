"""A page that cannot be published in time is made smaller, until it can."""

import asyncpg

from tests import topics
from tests.brokers import Broker
from tests.line import Line
from tests.worker import Worker

EVENTS = 20_000
HOT_KEY = """
INSERT INTO outbox (event_id, event_type, key, payload)
SELECT gen_random_uuid(), 'test.event', 'one key', n::text::bytea
FROM generate_series(1, $1) AS n
"""


async def test_page_that_is_too_slow_is_halved(
    database: str, broker: Broker, line: Line, delivery: str
) -> None:
    """Small batches one after the other over a slow line: the events get through, in order."""
    topic = database.rpartition("/")[2]
    await topics.make(broker.inside, topic, 1, {"max.message.bytes": "20000"})
    settings = {**broker.settings, "OUTBOX_DELIVERY": delivery, "OUTBOX_BATCH_SIZE": "20000"}
    connection = await asyncpg.connect(database)
    with Worker(database, f"127.0.0.1:{line.port}", topic, **settings) as worker:
        await worker.leading()
        line.delay_s = 0.2
        await connection.execute(HOT_KEY, EVENTS)
        await worker.wait_event("worker.failing", problem="TooSlowError")
        await worker.wait_published(1, timeout_s=120)
        line.delay_s = 0.0
        await worker.wait_published(EVENTS, timeout_s=120)
    await connection.close()
    values = [int(record.value) for record in await topics.read_all(broker.inside, topic)]
    if delivery == "at-least-once":
        values = list(dict.fromkeys(values))
    assert values == list(range(1, EVENTS + 1))
