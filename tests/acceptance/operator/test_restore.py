"""The procedures of deploy/backup.md: each kind of backup is restored while the topic is ahead of it."""

import shutil
import subprocess
from collections import defaultdict
from collections.abc import AsyncIterator, Iterator, Sequence
from pathlib import Path

import asyncpg
import pytest

from deploy.local.postgres import PostgresServer
from tests.support.parts import shared
from tests.support.parts.postgres import DATABASE, make_database
from tests.support.parts.volume import base_backup, restore
from tests.support.relay import links, writers
from tests.support.relay.worker import Worker
from tests.support.topic import topics
from tests.support.topic.events import event_of
from tests.support.topic.rebuilt import TableSubscriber
from tests.support.topic.reckoning import LAST
from tests.support.waiting import until

EVENTS = 100
"""The least number of events that are written before the backup, after it, and after the restore."""
Events = dict[str, list[str]]
"""The ids of each document's events, in order."""
AGE = "UPDATE outbox SET created_at = created_at - interval '1 minute'"
SETTINGS = {
    "archive_mode": "on",
    "archive_command": "mkdir -p ../archive && cp %p ../archive/%f",
    "max_wal_senders": "4",
    "shared_buffers": "16MB",
}
RECOVERY = """
restore_command = 'cp ../archive/%f %p'
recovery_target_time = '{}'
recovery_target_action = promote
"""


@pytest.fixture
async def archiving() -> AsyncIterator[PostgresServer]:
    """Yield a Postgres that archives its WAL, with documents and entities to link."""
    with PostgresServer(settings=SETTINGS) as server:
        await make_database(server)
        await writers.prepare(server.dsn(DATABASE))
        yield server


@pytest.fixture
def worker(archiving: PostgresServer, kafka: str, topic: str) -> Iterator[Worker]:
    """Yield a running worker of this database."""
    with Worker(archiving.dsn(DATABASE), kafka, topic) as worker:
        yield worker


async def test_volume(
    archiving: PostgresServer,
    worker: Worker,
    kafka: str,
    tmp_path: Path,
    subscriber: TableSubscriber,
) -> None:
    """The files of a stopped server are copied, and later put back."""
    await load(archiving, worker)
    archiving.stop()
    shutil.copytree(archiving.data_dir, tmp_path / "volume")
    archiving.start()
    await load(archiving, worker)
    worker.end()
    archiving.stop()
    restore(tmp_path / "volume", archiving)
    archiving.start()
    await follow_the_page(archiving, worker, kafka, subscriber)


async def test_point_in_time(
    archiving: PostgresServer,
    worker: Worker,
    kafka: str,
    tmp_path: Path,
    subscriber: TableSubscriber,
) -> None:
    """A base backup and the archived WAL are restored up to a time between two commits."""
    base_backup(archiving, tmp_path / "base")
    await load(archiving, worker)
    connection = await asyncpg.connect(archiving.dsn(DATABASE))
    time = await connection.fetchval("SELECT clock_timestamp()::text")
    await connection.close()
    await load(archiving, worker)
    worker.end()
    archiving.stop()
    with (tmp_path / "base" / "postgresql.conf").open("a") as conf:
        conf.write(RECOVERY.format(time))
    (tmp_path / "base" / "recovery.signal").touch()
    restore(tmp_path / "base", archiving)
    archiving.start()
    await until(lambda: is_promoted(archiving))
    await follow_the_page(archiving, worker, kafka, subscriber)


async def is_promoted(server: PostgresServer) -> bool:
    """Whether the server has reached the target of its recovery, and accepts writes."""
    connection = await asyncpg.connect(server.dsn())
    recovering = await connection.fetchval("SELECT pg_is_in_recovery()")
    await connection.close()
    return not recovering


async def test_dump(
    archiving: PostgresServer,
    worker: Worker,
    kafka: str,
    tmp_path: Path,
    subscriber: TableSubscriber,
) -> None:
    """A dump is restored into a new cluster, whose xids are smaller, and rebased."""
    await load(archiving, worker)
    # A rebase refuses a database with an event of the last 10 s.
    await shared.execute(archiving.dsn(DATABASE), AGE)
    dump = str(tmp_path / "links.dump")
    run(archiving, "pg_dump", "-Fc", "-f", dump, "-d", archiving.dsn(DATABASE))
    await load(archiving, worker)
    worker.end()
    archiving.stop()
    with PostgresServer(settings={"shared_buffers": "16MB"}) as other:
        run(other, "createdb", f"--maintenance-db={other.dsn()}", DATABASE)
        run(other, "pg_restore", "--exit-on-error", "-d", other.dsn(DATABASE), dump)
        worker.env["DATABASE_URL"] = other.dsn(DATABASE)
        worker.start()
        await until(worker.ended)
        assert worker.end() == 1
        assert "rebase" in worker.output()
        assert worker.command("rebase", "--yes") == 0, worker.output()
        await follow_the_page(other, worker, kafka, subscriber)


def run(server: PostgresServer, tool: str, *arguments: str) -> None:
    """Run one of the server's tools."""
    subprocess.run([server.bindir / tool, *arguments], check=True, capture_output=True)


async def load(server: PostgresServer, worker: Worker) -> None:
    """Toggle links until the worker has published EVENTS more of them."""
    await worker.leading()
    before = await worker.metric("outbox_events_published_total")
    async with writers.writing(server.dsn(DATABASE)):
        await worker.wait_published(int(before) + EVENTS)


async def follow_the_page(
    server: PostgresServer, worker: Worker, kafka: str, subscriber: TableSubscriber
) -> None:
    """Publish a snapshot, start the worker and verify; subscribers then know what the database has.

    New events are in the topic once and in order, although they have versions of events that the
    database has lost.
    """
    topic = worker.topic
    connection = await asyncpg.connect(server.dsn(DATABASE))
    restored = await outbox_events(connection)
    before = published_events(await topics.read_all(kafka, topic))
    lost = without(before, restored)
    assert worker.command("snapshot", "--topic", topic, "--yes") == 0, worker.output()
    worker.start()
    await worker.wait_event("relay.started", source="checkpoint", level="warning")
    await load(server, worker)
    last = await links.toggle(connection, *LAST)
    await topics.read_until(
        kafka, topic, lambda found: last in set().union(*published_events(found).values())
    )
    await until(lambda: is_idle(worker))
    assert worker.command("verify") == 0, worker.output()
    await subscriber.read(kafka, topic)
    assert await subscriber.active() == await links.active_links(connection)
    expected = without(await outbox_events(connection), restored)
    records = await topics.read_all(kafka, topic)
    assert without(without(published_events(records), before), restored) == expected
    assert versions(records, lost) & versions(records, expected)
    await connection.close()


async def is_idle(worker: Worker) -> bool:
    """Whether the worker has published all that is committed."""
    return await worker.metric("outbox_lag_events") == 0


async def outbox_events(connection: asyncpg.Connection) -> Events:
    """Return the ids of each document's events in the order of their positions."""
    found: Events = defaultdict(list)
    for row in await connection.fetch("SELECT key, event_id::text FROM outbox ORDER BY position"):
        found[row["key"]].append(row["event_id"])
    return found


def published_events(records: Sequence[topics.Record]) -> Events:
    """Return the ids of each document's live events, in the order of the topic."""
    found: Events = defaultdict(list)
    for record in records:
        if "snapshot" not in dict(record.headers):
            found[record.key.decode()].append(event_of(record.value)["id"])
    return found


def versions(records: Sequence[topics.Record], events: Events) -> set[tuple[str, str]]:
    """Return the document and the version of each of the events."""
    found = [event_of(record.value) for record in records if b"/" in record.key]
    return {
        (event["partitionkey"], event["sequence"])
        for event in found
        if event["id"] in events.get(event["partitionkey"], [])
    }


def without(events: Events, others: Events) -> Events:
    """Return the events that are not among others."""
    left = {
        key: [each for each in ids if each not in others.get(key, [])]
        for key, ids in events.items()
    }
    return {key: ids for key, ids in left.items() if ids}
