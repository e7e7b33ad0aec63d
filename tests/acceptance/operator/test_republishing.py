"""Events that an operator publishes again: to the event topic, to small topics, compressed."""

from collections import Counter
from collections.abc import AsyncIterator
from typing import Any
from uuid import UUID

import asyncpg
import jsonschema
import pytest

from outbox_worker.kafka.records import partition_of
from service.described.asyncapi import asyncapi
from tests.support.relay import outbox
from tests.support.relay.worker import Worker
from tests.support.service.api import Api, Link, seed, serving
from tests.support.topic import topics
from tests.support.topic.events import event_of

DOCUMENTS = 12
ENTITIES = 3
ALWAYS = ("--from", "2020-01-01", "--to", "2100-01-01", "--yes")


@pytest.fixture
async def api(database: str, connection: asyncpg.Connection) -> AsyncIterator[Api]:
    """Yield a client of a service with documents and deals."""
    async with serving(database) as api:
        await seed(connection, DOCUMENTS, ENTITIES)
        yield api


async def link_all(api: Api) -> int:
    """Link each document with each deal; return the number of events."""
    for document in range(1, DOCUMENTS + 1):
        for entity in range(1, ENTITIES + 1):
            await api.link(f"doc_{document}", Link("deal", f"deal_{entity}"))
    return DOCUMENTS * ENTITIES


async def test_snapshot_into_a_lost_event_topic(
    database: str, kafka: str, topic: str, api: Api
) -> None:
    """The new topic has the relay's number of partitions, not the environment's; the worker accepts it."""
    with Worker(database, kafka, topic, OUTBOX_PARTITIONS="5") as worker:
        count = await link_all(api)
        await topics.wait_for_count(kafka, topic, count)
        worker.end()
        await topics.delete(kafka, topic)
        worker.env["OUTBOX_PARTITIONS"] = "3"
        assert worker.command("snapshot", "--topic", topic, "--yes") == 0, worker.output()
        worker.start("--accept-topic")
        await worker.leading()
        (link, *_) = await api.links("doc_1")
        await api.unlink("doc_1", link["id"])
        records = await topics.wait_for_count(kafka, topic, 5 + count + 5 + 1)
    assert len(await topics.places_of(kafka, topic)) == 5
    links = [record for record in records if b"/" in record.key]  # not the markers
    assert [r.partition for r in links] == [partition_of(r.key, 5) for r in links]
    assert Counter(event_of(record.value)["type"] for record in records) == {
        "snapshot.began": 5,
        "document.linked": count,
        "snapshot.ended": 5,
        "document.unlinked": 1,
    }


def described(record: topics.Record, *marks: str) -> dict[str, Any]:
    """Validate a record's value, key and headers; return the event."""
    event, headers = event_of(record.value), dict(record.headers)
    messages = {each["name"]: each for each in asyncapi()["components"]["messages"].values()}
    properties = messages[event["type"]]["headers"]["properties"]
    assert set(headers) == {"content-type", *marks}
    for name, value in headers.items():
        jsonschema.validate(value.decode(), properties[name])
    assert record.key.decode() == event["partitionkey"]
    return event


async def test_a_replay_is_as_described(database: str, kafka: str, topic: str, api: Api) -> None:
    """Replayed events follow their schemas, and have their first ids and the header."""
    with Worker(database, kafka, topic) as worker:
        count = await link_all(api)
        for link in await api.links("doc_1"):
            await api.unlink("doc_1", link["id"])
        before = await topics.wait_for_count(kafka, topic, count + ENTITIES)
        assert worker.command("replay", *ALWAYS) == 0, worker.output()
    replayed = [
        described(record, "replay") for record in await topics.read_all(kafka, f"{topic}.replay")
    ]
    assert replayed == [event_of(record.value) for record in before]


async def test_a_snapshot_is_as_described(database: str, kafka: str, topic: str, api: Api) -> None:
    """Events of a snapshot follow their schemas; all links of a document have its version."""
    with Worker(database, kafka, topic) as worker:
        count = await link_all(api)
        await topics.wait_for_count(kafka, topic, count)
        snapshots = []
        for _ in range(2):
            assert worker.command("snapshot", "--yes") == 0, worker.output()
            snapshots.append(await topics.read_all(kafka, f"{topic}.snapshot"))
    first, second = (
        [described(record, "snapshot", "snapshot-id") for record in records]
        for records in snapshots
    )
    links = [event for event in first if event["type"] == "document.linked"]
    assert {event["data"]["document_version"] for event in links} == {ENTITIES}
    ids = {event["id"] for event in links}
    assert {UUID(each).version for each in ids} == {5}
    assert len(ids) == len(links) == count
    assert ids == {event["id"] for event in second if event["type"] == "document.linked"}


async def test_replay_into_a_grown_event_topic(
    database: str, kafka: str, topic: str, api: Api
) -> None:
    """Each event is published to the partition in which the relay published it."""
    with Worker(database, kafka, topic, OUTBOX_PARTITIONS="3") as worker:
        count = await link_all(api)
        before = await topics.wait_for_count(kafka, topic, count)
        await topics.grow(kafka, topic, 8)
        assert worker.command("replay", *ALWAYS, "--topic", topic) == 0, worker.output()
        after = await topics.wait_for_count(kafka, topic, 2 * count)
    places = {record.value: record.partition for record in before}
    assert [places[record.value] for record in after] == [record.partition for record in after]
    assert len(after) == 2 * count


async def test_replay_into_a_topic_with_too_few_partitions(
    database: str, kafka: str, topic: str, api: Api
) -> None:
    """The command refuses a topic with too few partitions, as the relay does."""
    with Worker(database, kafka, topic, OUTBOX_PARTITIONS="3") as worker:
        await topics.wait_for_count(kafka, topic, await link_all(api))
        worker.end()
        await topics.delete(kafka, topic)
        await topics.make(kafka, topic, 1, {})
        assert worker.command("snapshot", "--topic", topic, "--yes") == 1
        assert "has 1 partitions" in worker.output()
    assert await topics.read_all(kafka, topic) == []


async def test_replay_into_a_topic_with_small_batches(
    database: str, kafka: str, topic: str, connection: asyncpg.Connection
) -> None:
    """Events of 200 kB are published to a topic that accepts batches of 30 kB."""
    await topics.make(kafka, f"{topic}.replay", 1, {"max.message.bytes": "30000"})
    with Worker(database, kafka, topic) as worker:
        await outbox.insert_events(connection, 2_000, keys=1)
        await topics.wait_for_count(kafka, topic, 2_000)
        assert worker.command("replay", *ALWAYS) == 0, worker.output()
    assert len(await topics.read_all(kafka, f"{topic}.replay")) == 2_000


async def test_replay_compresses_as_the_relay_does(
    database: str, kafka: str, topic: str, connection: asyncpg.Connection
) -> None:
    """With OUTBOX_COMPRESSION, an event is published to a topic that would refuse it uncompressed."""
    await topics.make(kafka, f"{topic}.replay", 1, {"max.message.bytes": "5000"})
    with Worker(database, kafka, topic, OUTBOX_COMPRESSION="gzip") as worker:
        await outbox.insert_event(connection, "key", "x" * 15_000)
        await topics.wait_for_count(kafka, topic, 1)
        assert worker.command("replay", *ALWAYS) == 0, worker.output()
    assert len(await topics.read_all(kafka, f"{topic}.replay")) == 1
