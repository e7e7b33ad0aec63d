"""A database on a Postgres that one test has for itself: its events, and a worker that publishes them."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import asyncpg

from deploy.local.postgres import PostgresServer
from tests.support.parts import shared
from tests.support.relay import outbox
from tests.support.relay.worker import Worker
from tests.support.topic import topics

DATABASE = "links"
SCHEMA = Path("schema.sql").read_text()
END_SESSIONS = """
SELECT pg_terminate_backend(pid)
FROM pg_stat_activity
WHERE datname = current_database() AND pid <> pg_backend_pid()
"""


async def make_database(server: PostgresServer) -> None:
    """Make a database with the schema."""
    await shared.execute(server.dsn(), f"CREATE DATABASE {DATABASE}")
    await shared.execute(server.dsn(DATABASE), SCHEMA)


async def write(server: PostgresServer, *values: str) -> None:
    """Write events, each in a separate transaction."""
    connection = await asyncpg.connect(server.dsn(DATABASE))
    for value in values:
        await outbox.insert_event(connection, "key", value)
    await connection.close()


@asynccontextmanager
async def relayed(
    server: PostgresServer, kafka: str, topic: str, *values: str, **settings: str
) -> AsyncIterator[Worker]:
    """Yield a leading worker on the server's database that has published these events."""
    with Worker(server.dsn(DATABASE), kafka, topic, **settings) as worker:
        await worker.leading()
        await write(server, *values)
        await published(kafka, topic, len(values))
        yield worker


async def published(kafka: str, topic: str, count: int) -> list[str]:
    """Return the events in the topic once there are so many."""
    records = await topics.wait_for_count(kafka, topic, count)
    return [record.value.decode() for record in records]


async def until_published(worker: Worker, kafka: str, topic: str, value: str) -> None:
    """Return once an event is in the topic."""
    assert worker.running
    await topics.read_until(
        kafka, topic, lambda records: any(each.value == value.encode() for each in records)
    )


async def hold(worker: Worker, kafka: str, topic: str, delivery: str, values: list[str]) -> None:
    """See that the topic has these events in this order; exactly once, none of them is repeated."""
    await until_published(worker, kafka, topic, values[-1])
    found = [payload.decode() for payload in await topics.payloads(kafka, topic)]
    assert (found if delivery == "exactly-once" else list(dict.fromkeys(found))) == values
