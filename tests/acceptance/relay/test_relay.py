"""The worker as a process: started, signalled and killed."""

import asyncio
import random
import signal
import time

import asyncpg
import httpx

from deploy.local.programs import migrate
from tests.support.relay import outbox
from tests.support.relay.load import under_load
from tests.support.relay.worker import Worker
from tests.support.topic import topics
from tests.support.waiting import BUSY_S, until

STOP_S = 10 + BUSY_S  # 10 s: README


async def test_first_start_makes_the_topic_and_publishes_everything(
    database: str, kafka: str, topic: str, connection: asyncpg.Connection, delivery: str
) -> None:
    """Events written before the first start arrive in order for each key, with their header, and count."""
    await outbox.insert_events(connection, 1_000)
    written_at = time.time()
    settings = {"OUTBOX_DELIVERY": delivery, "OUTBOX_BATCH_SIZE": "300"}
    with Worker(database, kafka, topic, **settings) as worker:
        records = await topics.wait_for_count(kafka, topic, 1_000)
        await worker.wait_published(1_000)
        waited_s = time.time() - written_at
        assert await worker.metric("outbox_event_age_seconds_count") == 1_000
        assert 0 < await worker.metric("outbox_event_age_seconds_sum") < 1_000 * (waited_s + 1)
        content = sum(len(record.key) + len(record.value) for record in records)
        assert await worker.metric("outbox_published_bytes_total") > content
    assert len({record.partition for record in records}) == 12
    by_key: dict[bytes, list[int]] = {}
    for record in records:
        by_key.setdefault(record.key, []).append(int(record.value))
        assert ("content-type", b"application/cloudevents+json; charset=utf-8") in record.headers
    assert all(numbers == sorted(numbers) for numbers in by_key.values())
    assert sorted(n for numbers in by_key.values() for n in numbers) == list(range(1, 1_001))


async def test_killed_again_and_again_after_random_numbers_of_events(
    database: str, kafka: str, topic: str
) -> None:
    """A worker that is killed eight times publishes each event once, without a gap."""
    choice = random.Random(7)
    async with under_load(database, kafka, topic) as worker:
        for _ in range(8):
            await worker.leading()
            await worker.wait_published(choice.randint(1, 400))
            worker.end(signal.SIGKILL)
            worker.start()


async def test_a_database_without_the_schema_is_waited_for(
    empty_database: str, kafka: str, topic: str
) -> None:
    """The worker names the command that makes the schema, is not ready, and leads after the command."""
    with Worker(empty_database, kafka, topic) as worker:
        failing = await worker.wait_event("worker.failing", problem="UndefinedTableError")
        assert "python -m service migrate" in failing["detail"]
        assert (await worker.get("/readyz")).status_code == 503
        await asyncio.to_thread(migrate, empty_database)
        await worker.leading()


async def test_existing_topic_is_used_unchanged(
    database: str, kafka: str, topic: str, connection: asyncpg.Connection
) -> None:
    """An existing topic keeps its partitions, and the worker warns if it deletes old records."""
    forgetful = {"retention.ms": "-1", "retention.bytes": "1000000000"}
    await topics.make(kafka, topic, partitions=3, configs=forgetful)
    await outbox.insert_events(connection, 200)
    with Worker(database, kafka, topic) as worker:
        warning = await worker.wait_event("topic.forgets", level="warning")
        assert warning["retention_bytes"] == "1000000000"
        records = await topics.wait_for_count(kafka, topic, 200)
    assert {record.partition for record in records} == {0, 1, 2}
    assert await connection.fetchval("SELECT topic_partitions FROM outbox_relay") == 3


async def test_late_commit_is_not_lost_and_delays_no_other_event(
    database: str, kafka: str, topic: str, connection: asyncpg.Connection
) -> None:
    """Events of a transaction that inserts first and commits last are published last."""
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


async def test_sigterm_ends_the_worker_in_time(database: str, kafka: str, topic: str) -> None:
    """A working worker that gets SIGTERM exits with 0, and loses nothing."""
    async with under_load(database, kafka, topic) as worker:
        worker.send(signal.SIGTERM)
        await until(worker.ended, STOP_S)
        assert worker.end() == 0
        worker.start()


async def test_pages_on_ipv6_and_ipv4(database: str, kafka: str, topic: str) -> None:
    """A worker that listens on `::` answers at IPv4 addresses too."""
    with Worker(database, kafka, topic, OUTBOX_HTTP_HOST="::") as worker:
        url = (await worker.wait_event("worker.started"))["url"]
        assert url.startswith("http://[::]:")
        async with httpx.AsyncClient() as client:
            answer = await client.get(url.replace("[::]", "127.0.0.1") + "/healthz")
        assert answer.status_code == 200


async def test_address_of_another_host_is_refused(database: str, kafka: str, topic: str) -> None:
    """An address that the machine does not have ends the worker with 1 and one line."""
    with Worker(database, kafka, topic, OUTBOX_HTTP_HOST="2001:db8::1") as worker:
        assert worker.end(signal.SIGCONT) == 1
        assert worker.output().startswith("outbox_worker: cannot listen on [2001:db8::1]:0: ")


async def test_misspelt_variable_is_refused(database: str, kafka: str, topic: str) -> None:
    """A misspelt variable ends the worker with 2 and a line that names the nearest setting."""
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
