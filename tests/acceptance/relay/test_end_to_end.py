"""From HTTP to Kafka: whatever process is killed, the topic has what the tables have."""

import asyncio
import random
import signal
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from threading import Event

import asyncpg
import httpx

from deploy.local import programs
from tests.support.relay import links
from tests.support.relay.worker import Worker
from tests.support.service.api import GENEROUS, Api, new_key, seed
from tests.support.service.callers import DOCUMENTS, Caller
from tests.support.topic import topics
from tests.support.topic.rebuilt import TableSubscriber
from tests.support.topic.subscriber import check, read_outbox

THREADS = 4
KILLS = 4
SETTINGS = {"LINKS_WORKERS": "2", "LINKS_RATE_LIMIT": GENEROUS}


def call_until(stop: Event, url: str, key: str, number: int) -> Counter[int]:
    """Make random calls on this thread until `stop` is set; return the statuses."""

    async def calls() -> Counter[int]:
        headers = {"X-API-KEY": key}
        async with httpx.AsyncClient(base_url=url, headers=headers, timeout=30) as client:
            caller = Caller(Api(client, key), number)
            await caller.call_until(stop)
            return caller.statuses

    return asyncio.run(calls())


@asynccontextmanager
async def calling(url: str, key: str) -> AsyncIterator[Counter[int]]:
    """Call from several threads until the context ends; the counter is filled at its end."""
    stop, statuses = Event(), Counter[int]()
    async with asyncio.TaskGroup() as group:
        threads = [
            group.create_task(asyncio.to_thread(call_until, stop, url, key, number))
            for number in range(THREADS)
        ]
        try:
            yield statuses
        finally:
            stop.set()
    for thread in threads:
        statuses.update(thread.result())


async def kill_again_and_again(worker: Worker) -> None:
    """Kill the worker each time that it has published some events."""
    choice = random.Random(11)
    for _ in range(KILLS):
        await worker.leading()
        await worker.wait_published(choice.randint(1, 200))
        worker.end(signal.SIGKILL)
        worker.start()


async def test_topic_gives_the_active_links(
    database: str, kafka: str, topic: str, tmp_path: Path, subscriber: TableSubscriber
) -> None:
    """While the worker is killed, no event of the calls is lost, repeated or in the wrong order.

    The subscriber of deploy/subscriber rebuilds the active links from the topic.
    """
    connection = await asyncpg.connect(database)
    key = await new_key(database)
    await seed(connection, len(DOCUMENTS), 3)
    with (
        programs.service(database, tmp_path, **SETTINGS) as service,
        Worker(database, kafka, topic) as worker,
    ):
        async with calling(service.url, key) as statuses:
            await kill_again_and_again(worker)
        written = await read_outbox(connection)
        records = await topics.wait_for_count(kafka, topic, len(written))
    assert statuses[200] > 100
    assert len(records) == len(written) > 100
    await check(connection, [record.value for record in records])
    await subscriber.apply(records)
    assert await subscriber.active() == await links.active_links(connection) != set()
    for record in records:
        check_record(record.key, dict(record.headers), record.value)
    await connection.close()


def check_record(key: bytes, headers: dict[str, bytes], value: bytes) -> None:
    """See that key and headers follow the AsyncAPI document."""
    assert headers == {"content-type": b"application/cloudevents+json; charset=utf-8"}
    assert b'"partitionkey":"' + key + b'"' in value


async def test_an_event_is_published_unchanged(
    database: str, kafka: str, topic: str, tmp_path: Path
) -> None:
    """The record of a link has the key, the value and the traceparent that its transaction wrote."""
    connection = await asyncpg.connect(database)
    key = await new_key(database)
    await seed(connection, 1, 1)
    trace = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
    headers = {"X-API-KEY": key, "traceparent": trace}
    with programs.service(database, tmp_path) as service, Worker(database, kafka, topic):
        async with httpx.AsyncClient(base_url=service.url, headers=headers) as client:
            made = await Api(client, key).add("doc_1", "ship_1")
        assert made.status_code == 201
        (record,) = await topics.wait_for_count(kafka, topic, 1)
    row = await connection.fetchrow("SELECT key, payload FROM outbox")
    assert row is not None
    assert (record.key.decode(), record.value) == tuple(row)
    assert dict(record.headers) == {
        "content-type": b"application/cloudevents+json; charset=utf-8",
        "traceparent": trace.encode(),
    }
    await check(connection, [record.value])
    await connection.close()
