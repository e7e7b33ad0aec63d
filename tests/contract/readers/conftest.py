"""A topic in each compression that the worker offers, with an aborted transaction among the events."""

from collections.abc import AsyncIterator
from typing import Any, NamedTuple, get_args

import asyncpg
import pytest
from aiokafka import AIOKafkaProducer

from outbox_worker.settings import Codec
from tests.contract.readers.java_client import JavaReader
from tests.support.relay.worker import Worker
from tests.support.service.api import Api, Link, seed, serving
from tests.support.topic import topics

COMPRESSIONS: tuple[str, ...] = get_args(Codec)
DOCUMENTS = 8
PARTITIONS = 2
TRACEPARENT = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"


class Published(NamedTuple):
    """A topic, the compression of its events, and its committed records as aiokafka reads them."""

    kafka: str
    topic: str
    compression: str
    records: list[dict[str, Any]]
    worker: Worker


@pytest.fixture(scope="session")
def java_reader(tmp_path_factory: pytest.TempPathFactory) -> JavaReader:
    """Return the program of the Java client."""
    return JavaReader(tmp_path_factory.mktemp("java"))


@pytest.fixture(params=COMPRESSIONS)
async def published(
    request: pytest.FixtureRequest,
    database: str,
    connection: asyncpg.Connection,
    kafka: str,
    topic: str,
) -> AsyncIterator[Published]:
    """Yield the topic while its worker runs."""
    settings = {"OUTBOX_COMPRESSION": request.param, "OUTBOX_PARTITIONS": str(PARTITIONS)}
    async with serving(database) as api:
        await seed(connection, DOCUMENTS, 1)
        with Worker(database, kafka, topic, **settings) as worker:
            await change(api)
            await topics.wait_for_count(kafka, topic, await events(connection))
            await abort(kafka, topic)
            await change(api)
            found = await topics.wait_for_count(kafka, topic, await events(connection))
            records = [as_dict(record) for record in found]
            yield Published(kafka, topic, request.param, records, worker)


async def events(connection: asyncpg.Connection) -> int:
    """Return the number of events in the outbox."""
    count: int = await connection.fetchval("SELECT count(*) FROM outbox")
    return count


async def change(api: Api) -> None:
    """Link each document, and unlink every other one. A second round restores what the first has unlinked."""
    headers = {"traceparent": TRACEPARENT}
    for number in range(1, DOCUMENTS + 1):
        document = f"doc_{number}"
        answer = await api.link(document, Link("deal", "deal_1", "draft"), headers)
        path = f"/v1/documents/{document}/links/{answer.json()['data']['link_id']}"
        assert (
            await api.client.patch(path, json={"role": f"größer {answer.status_code}"})
        ).is_success
        if number % 2:
            assert (await api.client.delete(path)).is_success


async def abort(kafka: str, topic: str) -> None:
    """Leave records in each partition whose transaction is aborted."""
    async with AIOKafkaProducer(
        bootstrap_servers=kafka, transactional_id=f"{topic}-abort"
    ) as producer:
        await producer.begin_transaction()
        for partition in range(PARTITIONS):
            await producer.send_and_wait(topic, b"aborted", b"aborted", partition)
        await producer.abort_transaction()


def as_dict(record: topics.Record) -> dict[str, Any]:
    """Return a record as the other clients' programs print it."""
    return {
        "partition": record.partition,
        "offset": record.offset,
        "key": record.key.decode(),
        "value": record.value.decode(),
        "headers": {name: value.decode() for name, value in record.headers},
    }


def in_order(records: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return records by partition and offset."""
    return sorted(records, key=lambda record: (record["partition"], record["offset"]))
