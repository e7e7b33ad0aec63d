"""A database on a Postgres of the test's own: events written to it, and what a topic has of them."""

from pathlib import Path

import asyncpg

from deploy.local.postgres import PostgresServer
from tests.support.parts import shared
from tests.support.relay import outbox
from tests.support.relay.worker import Worker
from tests.support.topic import topics
from tests.support.waiting import until

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
    """Write events, each in a transaction of its own."""
    connection = await asyncpg.connect(server.dsn(DATABASE))
    for value in values:
        await outbox.insert_event(connection, "key", value)
    await connection.close()


async def published(kafka: str, topic: str, count: int) -> list[str]:
    """Return the events in the topic once there are so many."""
    records = await topics.wait_for_count(kafka, topic, count)
    return [record.value.decode() for record in records]


async def until_published(worker: Worker, kafka: str, topic: str, value: str) -> None:
    """Return once an event is in the topic."""

    async def look() -> bool:
        return value.encode() in await topics.payloads(kafka, topic)

    assert worker.running
    await until(look, timeout_s=90)  # each look reads the whole topic


async def hold(worker: Worker, kafka: str, topic: str, delivery: str, values: list[str]) -> None:
    """Hold the topic against the events: in their order, none missing and, exactly once, none twice."""
    await until_published(worker, kafka, topic, values[-1])
    found = [payload.decode() for payload in await topics.payloads(kafka, topic)]
    assert (found if delivery == "exactly-once" else list(dict.fromkeys(found))) == values
