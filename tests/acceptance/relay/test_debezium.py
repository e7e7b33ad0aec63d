"""The Debezium configuration in deploy/, for teams that relay with Kafka Connect."""

from collections.abc import Iterator

import asyncpg
import pytest

from deploy.local.postgres import PostgresServer
from deploy.local.programs import migrate
from tests.benchmarks.peers.connect import Connect
from tests.benchmarks.peers.debezium import Source
from tests.support.relay import outbox
from tests.support.relay.worker import Worker
from tests.support.topic import topics

EVENTS = 500
INSERT_TRACED = """
INSERT INTO outbox (event_id, event_type, key, payload, traceparent)
VALUES (gen_random_uuid(), 'test.event', 'key/traced', '{"traced": true}', $1)
"""
TRACEPARENT = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"


@pytest.fixture
def logical_database() -> Iterator[str]:
    """Yield the URL of a migrated database on a server with wal_level=logical."""
    with PostgresServer(settings={"wal_level": "logical", "fsync": "off"}) as server:
        migrate(server.dsn())
        yield server.dsn()


@pytest.mark.timeout(600)  # a fresh machine fetches Connect and Debezium first
async def test_debezium_gives_the_same_messages_as_the_worker(
    logical_database: str, kafka: str, topic: str
) -> None:
    """Debezium publishes the same keys, values and headers, in the same partitions and order."""
    theirs = f"{topic}-debezium"
    with Connect(kafka, exactly_once=True) as connect:
        async with Source(logical_database) as source:
            await write(logical_database)
            await connect.ready()
            async with source.relayed(connect, theirs):
                relayed = await topics.wait_for_count(kafka, theirs, EVENTS + 1)
    with Worker(logical_database, kafka, topic):
        ours = await topics.wait_for_count(kafka, topic, EVENTS + 1)
    assert [message(record) for record in relayed] == [message(record) for record in ours]


async def write(database: str) -> None:
    """Write events, one of them with a traceparent."""
    connection = await asyncpg.connect(database)
    try:
        await outbox.insert_events(connection, EVENTS)
        await connection.execute(INSERT_TRACED, TRACEPARENT)
    finally:
        await connection.close()


def message(record: topics.Record) -> tuple[object, ...]:
    """Return a record without the null headers, which only Debezium writes."""
    headers = [header for header in record.headers if header[1] is not None]
    return record.partition, record.key, record.value, sorted(headers)
