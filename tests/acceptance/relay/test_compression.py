"""The codec of the event batches: recorded when the relay is registered, unless a setting names another."""

import asyncpg
import pytest

from tests.support.relay.outbox import insert_events
from tests.support.relay.worker import Worker
from tests.support.topic import topics
from tests.support.topic.codecs import codecs

ALL = ("--from", "2000-01-01", "--to", "2100-01-01")
EXISTING = "UPDATE outbox_relay SET compression = 'none'"


async def published_with(
    connection: asyncpg.Connection, kafka: str, topic: str, count: int
) -> tuple[set[str], set[str]]:
    """Publish events until the topic has so many; return the codecs of both topics."""
    await insert_events(connection, 50, keys=1)
    await topics.wait_for_count(kafka, topic, count)
    name = await connection.fetchval("SELECT name FROM outbox_relay")
    return (
        set(await codecs(kafka, topic)),
        set(await codecs(kafka, f"{topic}.progress.{name}")),
    )


async def test_a_new_relay_compresses_with_zstd(
    database: str, kafka: str, topic: str, connection: asyncpg.Connection
) -> None:
    """Event batches and replays are compressed with zstd, progress records are not; the log says so."""
    with Worker(database, kafka, topic) as worker:
        started = await worker.wait_event("relay.started")
        assert await published_with(connection, kafka, topic, 50) == ({"zstd"}, {"none"})
        assert worker.command("replay", *ALL, "--yes") == 0
        assert set(await codecs(kafka, f"{topic}.replay")) == {"zstd"}
    assert started["compression"] == "zstd"
    assert await connection.fetchval("SELECT compression FROM outbox_relay") == "zstd"


@pytest.mark.parametrize("setting", ["", "gzip"])
async def test_a_relay_that_existed_keeps_what_it_had(
    database: str, kafka: str, topic: str, connection: asyncpg.Connection, setting: str
) -> None:
    """A relay that is recorded with `none` compresses nothing, unless OUTBOX_COMPRESSION is set."""
    codec = setting or "none"
    with Worker(database, kafka, topic, OUTBOX_COMPRESSION="none") as worker:
        await worker.wait_event("relay.started")
    await connection.execute(EXISTING)
    with Worker(database, kafka, topic, OUTBOX_COMPRESSION=setting) as worker:
        started = await worker.wait_event("relay.started")
        assert await published_with(connection, kafka, topic, 50) == ({codec}, {"none"})
    assert started["compression"] == codec
    assert await connection.fetchval("SELECT compression FROM outbox_relay") == "none"
