"""Snapshots as subscribers read them, whole or interrupted."""

import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import asyncpg
import pytest

from tests.support.programs.command import Operator
from tests.support.relay import links
from tests.support.relay.worker import Worker
from tests.support.topic import topics
from tests.support.topic.events import event_of
from tests.support.topic.rebuilt import TableSubscriber
from tests.support.waiting import until

DOCUMENTS = 6
ENTITIES = 3
PARTITIONS = 12


@pytest.fixture
async def connection(connection: asyncpg.Connection) -> asyncpg.Connection:
    """Yield the owner's connection to a database with links, some of them removed."""
    await links.seed(connection, DOCUMENTS, ENTITIES)
    for document in range(1, DOCUMENTS + 1):
        for entity in range(1, ENTITIES + 1):
            await links.toggle(connection, f"doc_{document}", str(entity))
    return connection


@pytest.fixture
async def operator(
    connection: asyncpg.Connection, kafka: str, topic: str, worker: Worker
) -> Operator:
    """Return an operator with the environment of a worker that has published all events."""
    count = await connection.fetchval("SELECT count(*) FROM outbox")
    await topics.wait_for_count(kafka, topic, count)
    return Operator(worker.env)


@asynccontextmanager
async def held_back(connection: asyncpg.Connection) -> AsyncIterator[None]:
    """Stop a snapshot between its markers and its links, by a lock on `documents`."""
    async with connection.transaction():
        await connection.execute("LOCK TABLE documents")
        yield


async def wait_for_markers(kafka: str, topic: str) -> None:
    """Return once a snapshot has begun in each partition."""

    async def begun() -> bool:
        records = await topics.read_all(kafka, topic)
        return sum(b"snapshot.began" in record.value for record in records) == PARTITIONS

    await until(begun)


async def test_a_second_snapshot_replaces_the_first(
    connection: asyncpg.Connection, kafka: str, topic: str, operator: Operator
) -> None:
    """After both snapshots a subscriber has the present links, not those of the first."""
    first = await operator.run("snapshot", "--yes", "--json")
    assert first.code == 0, first.errors
    for entity in range(1, ENTITIES + 1):
        await links.toggle(connection, "doc_1", str(entity))
    await links.toggle(connection, "doc_2", "1")
    second = await operator.run("snapshot", "--yes", "--json")
    assert second.code == 0, second.errors
    records = await topics.read_all(kafka, f"{topic}.snapshot")
    linked = [event_of(record.value) for record in records if b"document.linked" in record.value]
    expected = await links.active_links(connection)
    assert {event["data"]["link"]["id"] for event in linked} == expected
    assert len(linked) == len(expected) == second.report["links"]
    ids = {dict(record.headers)["snapshot-id"].decode() for record in records}
    assert ids == {second.report["snapshot_id"]} != {first.report["snapshot_id"]}


async def test_every_partition_has_a_beginning_and_an_end(
    connection: asyncpg.Connection,
    kafka: str,
    topic: str,
    operator: Operator,
    subscriber: TableSubscriber,
) -> None:
    """Partitions without links have both markers too; the counts are right, and the schemas are followed."""
    done = await operator.run("snapshot", "--yes", "--json")
    assert done.code == 0, done.errors
    records = await topics.read_all(kafka, f"{topic}.snapshot")
    for partition in range(PARTITIONS):
        events = [event_of(each.value) for each in records if each.partition == partition]
        began, *linked, ended = events
        assert (began["type"], ended["type"]) == ("snapshot.began", "snapshot.ended")
        assert {event["type"] for event in linked} <= {"document.linked"}
        assert ended["data"]["links"] == len(linked)
        assert began["data"]["live_topic"] == topic
        assert began["data"]["continue_from"] == done.report["continue_from"]
        assert {began["data"]["partition"], ended["data"]["partition"]} == {partition}
    assert {dict(record.headers)["snapshot"] for record in records} == {b"true"}
    await subscriber.read(kafka, f"{topic}.snapshot")
    assert await subscriber.active() == await links.active_links(connection)


async def test_an_interrupted_snapshot(
    connection: asyncpg.Connection,
    kafka: str,
    topic: str,
    operator: Operator,
    subscriber: TableSubscriber,
) -> None:
    """Ctrl-C exits with 1 and one line. A subscriber ignores this snapshot, and takes the next one."""
    target = f"{topic}.snapshot"
    async with held_back(connection):
        process = await operator.start("snapshot", "--yes", "--json")
        await wait_for_markers(kafka, target)
        process.send_signal(signal.SIGINT)
        done = await operator.end_of(process)
    assert (done.code, len(done.errors.splitlines())) == (1, 1)
    assert done.report["error"].startswith("interrupted; snapshot ")
    await subscriber.read(kafka, target)
    assert await subscriber.begun() == set(range(PARTITIONS))
    assert await subscriber.active() == set()
    assert (await operator.run("snapshot", "--yes")).code == 0
    await subscriber.read(kafka, target)
    assert await subscriber.begun() == set()
    assert await subscriber.active() == await links.active_links(connection)


async def test_two_snapshots_at_once(
    connection: asyncpg.Connection,
    kafka: str,
    topic: str,
    operator: Operator,
    subscriber: TableSubscriber,
) -> None:
    """The second command is refused with exit code 1; the first snapshot is complete."""
    target = f"{topic}.snapshot"
    async with held_back(connection):
        first = await operator.start("snapshot", "--yes")
        await wait_for_markers(kafka, target)
        second = await operator.run("snapshot", "--yes")
    assert (second.code, "is being published: wait" in second.errors) == (1, True)
    assert (await operator.end_of(first)).code == 0
    await subscriber.read(kafka, target)
    assert set(subscriber.table.snapshots) == set(range(PARTITIONS))
    assert await subscriber.active() == await links.active_links(connection)


async def test_a_snapshot_among_live_events(
    connection: asyncpg.Connection,
    kafka: str,
    topic: str,
    operator: Operator,
    subscriber: TableSubscriber,
) -> None:
    """In the event topic, a subscriber tells a snapshot's events from those of the relay."""
    async with held_back(connection):
        process = await operator.start("snapshot", "--topic", topic, "--yes")
        await wait_for_markers(kafka, topic)
        await links.toggle(connection, "doc_1", "1")
    await links.toggle(connection, "doc_2", "2")
    assert (await operator.end_of(process)).code == 0
    await links.toggle(connection, "doc_3", "3")
    count: int = await connection.fetchval("SELECT count(*) FROM outbox")
    in_snapshot = DOCUMENTS * ENTITIES

    async def caught_up() -> bool:
        records = await topics.read_all(kafka, topic)
        live = [record for record in records if "snapshot" not in dict(record.headers)]
        return len(live) == count and len(records) > count + in_snapshot

    await until(caught_up)
    await subscriber.read(kafka, topic)
    assert set(subscriber.table.snapshots) == set(range(PARTITIONS))
    assert await subscriber.active() == await links.active_links(connection)


async def test_links_of_a_document_without_active_links_are_forgotten(
    connection: asyncpg.Connection,
    kafka: str,
    topic: str,
    operator: Operator,
    subscriber: TableSubscriber,
) -> None:
    """A snapshot has no document without active links: after it a subscriber has no links of one."""
    key = f"{links.WORKSPACE}/doc_1"
    await operator.run("snapshot", "--yes")
    await subscriber.read(kafka, f"{topic}.snapshot")
    first = set(subscriber.table.snapshots.values())
    assert await subscriber.knows(key)
    for entity in range(1, ENTITIES + 1):
        await links.toggle(connection, "doc_1", str(entity))
    await operator.run("snapshot", "--yes")
    await subscriber.read(kafka, f"{topic}.snapshot")
    assert not await subscriber.knows(key)
    assert await subscriber.active() == await links.active_links(connection)
    assert first.isdisjoint(subscriber.table.snapshots.values())


async def test_a_topic_with_other_records_is_refused(
    connection: asyncpg.Connection, kafka: str, topic: str, operator: Operator
) -> None:
    """A topic that has records of no snapshot is refused, and keeps them."""
    await operator.run("replay", "--from", "2020-01-01", "--to", "2100-01-01", "--yes",
                       "--topic", f"{topic}.other")  # fmt: skip
    before = await topics.payloads(kafka, f"{topic}.other")
    assert len(before) == await connection.fetchval("SELECT count(*) FROM outbox")
    done = await operator.run("snapshot", "--topic", f"{topic}.other", "--yes")
    assert (done.code, "has records that are no snapshot" in done.errors) == (1, True)
    assert await topics.payloads(kafka, f"{topic}.other") == before


@pytest.mark.parametrize(
    "command", [["snapshot"], ["replay", "--from", "2020-01-01", "--to", "2100-01-01"]]
)
async def test_a_compacted_topic_is_refused(
    kafka: str, topic: str, operator: Operator, command: list[str]
) -> None:
    """A compacted topic, which would keep one event of each document, is refused and stays empty."""
    await topics.make(kafka, f"{topic}.compacted", 1, {"cleanup.policy": "compact"})
    done = await operator.run(*command, "--topic", f"{topic}.compacted", "--yes")
    assert (done.code, "is compacted" in done.errors) == (1, True)
    assert await topics.read_all(kafka, f"{topic}.compacted") == []


async def test_a_snapshot_needs_a_confirmation(kafka: str, topic: str, operator: Operator) -> None:
    """Without a terminal and --yes the command exits with 1 and one line, and publishes nothing."""
    done = await operator.run("snapshot", "--json")
    assert (done.code, len(done.errors.splitlines())) == (1, 1)
    assert f"active links to {topic}.snapshot" in done.errors
    assert "--yes" in done.report["error"]
    assert await topics.read_all(kafka, f"{topic}.snapshot") == []
