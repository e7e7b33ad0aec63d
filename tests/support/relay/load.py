"""A worker under load: it publishes what writers write, and at the end the topic is complete."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from tests.support.relay import writers
from tests.support.relay.worker import Worker
from tests.support.topic.reckoning import reckon

PUBLISHED = 20


@asynccontextmanager
async def under_load(
    database: str,
    kafka: str,
    topic: str | None = None,
    *,
    inside: str | None = None,
    **settings: str,
) -> AsyncIterator[Worker]:
    """Yield a worker that publishes, while writers toggle links until the context ends.

    At the end of the context the worker must publish again, and nothing may be lost or in the wrong
    order. With exactly-once delivery nothing may be repeated either.

    Args:
        database: the URL for the worker and the writers.
        kafka: the worker's address of Kafka.
        topic: None: the topic has the name of the database.
        inside: the test's address of Kafka; None: the worker's.
        settings: of the worker; DATABASE_URL may lead it through a proxy or a pooler.
    """
    await writers.prepare(database)
    with Worker(database, kafka, topic, **settings) as worker:
        await worker.leading()
        async with writers.writing(database):
            await worker.wait_published(PUBLISHED)
            yield worker
            await worker.wait_working()
        delivery = settings.get("OUTBOX_DELIVERY", "exactly-once")
        await reckon(database, inside or kafka, worker.topic, delivery)
