"""The worker as a whole, on real processes: started, signalled, killed."""

import asyncio
import random
import signal
import time

import asyncpg
import httpx

from deploy.local.programs import migrate
from tests.support.relay import outbox, writers
from tests.support.relay.worker import Worker
from tests.support.topic import topics
from tests.support.topic.reckoning import reckon


async def test_first_start_makes_the_topic_and_publishes_everything(
    database: str, kafka: str, topic: str, connection: asyncpg.Connection, delivery: str
) -> None:
    """Events written before the first start arrive in order for each key, with their header."""
    await outbox.insert_events(connection, 1_000)
    with Worker(database, kafka, topic, OUTBOX_DELIVERY=delivery) as worker:
        records = await topics.wait_for_count(kafka, topic, 1_000)
        assert worker.running
    assert len({record.partition for record in records}) == 12
    by_key: dict[bytes, list[int]] = {}
    for record in records:
        by_key.setdefault(record.key, []).append(int(record.value))
        assert ("content-type", b"application/cloudevents+json; charset=utf-8") in record.headers
    assert all(numbers == sorted(numbers) for numbers in by_key.values())
    assert sorted(n for numbers in by_key.values() for n in numbers) == list(range(1, 1_001))


async def test_killed_every_few_seconds_under_random_writes(
    database: str, kafka: str, topic: str
) -> None:
    """However often it is killed, the topic gives the active links, nothing twice, no gap."""
    await writers.prepare(database)
    choice = random.Random(7)
    with Worker(database, kafka, topic) as worker:
        async with writers.writing(lambda: database, 3):
            for _ in range(8):
                await worker.leading()
                await worker.wait_published(choice.randint(1, 400))
                worker.end(signal.SIGKILL)
                worker.start()
        await reckon(database, kafka, topic)


async def test_a_database_without_the_schema_is_waited_for(
    empty_database: str, kafka: str, topic: str
) -> None:
    """The worker says which command makes it, is not ready, and leads once that has run."""
    with Worker(empty_database, kafka, topic) as worker:
        failing = await worker.wait_event("worker.failing", problem="UndefinedTableError")
        assert "python -m service migrate" in failing["detail"]
        assert (await worker.get("/readyz")).status_code == 503
        await asyncio.to_thread(migrate, empty_database)
        await worker.leading()


async def test_existing_topic_is_taken_as_it_is(
    database: str, kafka: str, topic: str, connection: asyncpg.Connection
) -> None:
    """A topic made beforehand keeps its partitions, and one that forgets is warned of."""
    forgetful = {"retention.ms": "-1", "retention.bytes": "1000000000"}
    await topics.make(kafka, topic, partitions=3, configs=forgetful)
    await outbox.insert_events(connection, 200)
    with Worker(database, kafka, topic) as worker:
        warning = await worker.wait_event("topic.forgets", level="warning")
        assert warning["retention_bytes"] == "1000000000"
        records = await topics.wait_for_count(kafka, topic, 200)
    assert {record.partition for record in records} == {0, 1, 2}
    assert await connection.fetchval("SELECT topic_partitions FROM outbox_relay") == 3


async def test_late_commit_is_not_lost_and_holds_nobody_up(
    database: str, kafka: str, topic: str, connection: asyncpg.Connection
) -> None:
    """A transaction that inserts first and commits last is published last; others pass it."""
    late = await asyncpg.connect(database)
    with Worker(database, kafka, topic) as worker:
        await worker.leading()
        transaction = late.transaction()
        await transaction.start()
        await outbox.insert_event(late, "late", "late")
        await outbox.insert_events(connection, 50)
        assert len(await topics.wait_for_count(kafka, topic, 50)) == 50
        await transaction.commit()
        records = await topics.wait_for_count(kafka, topic, 51)
    assert [record.value for record in records if record.key == b"late"] == [b"late"]
    await late.close()


async def test_sigterm_ends_it_cleanly_within_ten_seconds(
    database: str, kafka: str, topic: str
) -> None:
    """Told to stop in the middle of work it exits 0 and loses nothing."""
    await writers.prepare(database)
    with Worker(database, kafka, topic) as worker:
        async with writers.writing(lambda: database, 2):
            await worker.wait_published(100)
            began = time.monotonic()
            assert worker.end(signal.SIGTERM) == 0
            assert time.monotonic() - began < 10
        worker.start()
        await reckon(database, kafka, topic)


async def test_pages_on_every_address_of_both_families(
    database: str, kafka: str, topic: str
) -> None:
    """Told to listen on `::`, the pages answer there, and at IPv4 addresses too."""
    with Worker(database, kafka, topic, OUTBOX_HTTP_HOST="::") as worker:
        url = (await worker.wait_event("worker.started"))["url"]
        assert url.startswith("http://[::]:")
        async with httpx.AsyncClient() as client:
            answer = await client.get(url.replace("[::]", "127.0.0.1") + "/healthz")
        assert answer.status_code == 200


async def test_address_that_is_none_is_said(database: str, kafka: str, topic: str) -> None:
    """A host that cannot be listened on is one line, exit 1."""
    with Worker(database, kafka, topic, OUTBOX_HTTP_HOST="2001:db8::1") as worker:
        assert worker.end(signal.SIGCONT) == 1
        assert worker.output().startswith("outbox_worker: cannot listen on [2001:db8::1]:0: ")


async def test_wrong_settings_end_it_with_one_line(database: str, kafka: str, topic: str) -> None:
    """A misspelt variable is refused with exit 2 and the nearest name."""
    with Worker(database, kafka, topic, OUTBOX_PARTITION="3") as worker:
        assert worker.end(signal.SIGCONT) == 2
        assert (
            worker.output()
            .strip()
            .endswith("OUTBOX_PARTITION: unknown variable; did you mean OUTBOX_PARTITIONS?")
        )


async def test_copy_of_the_database_is_refused(
    database: str, kafka: str, topic: str, connection: asyncpg.Connection
) -> None:
    """A worker on a copy made by template exits 1 and leaves the original's relay alone."""
    with Worker(database, kafka, topic) as original:
        await original.leading()
        original.end()
        await connection.close()
        copy = f"{database}_copy"
        admin = await asyncpg.connect(database.rpartition("/")[0] + "/postgres")
        name, source = copy.rpartition("/")[2], database.rpartition("/")[2]
        await admin.execute(f"CREATE DATABASE {name} TEMPLATE {source}")
        original.start()
        await original.leading()
        with Worker(copy, kafka, topic) as worker:
            assert worker.end(signal.SIGCONT, timeout_s=20) == 1
            assert "rebase" in worker.output()
        assert original.running
        await admin.execute(f"DROP DATABASE {name}")
        await admin.close()
