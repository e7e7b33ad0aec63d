"""`replay` and `snapshot` that end in the middle of a page, and what `--resume` adds to the topic."""

import asyncio
import signal
from collections import defaultdict
from collections.abc import AsyncIterator
from typing import NamedTuple

import asyncpg
import pytest

from tests.support.faults.kafka import PRODUCE, KafkaProxy
from tests.support.faults.tcp import Way
from tests.support.parts.brokers import Broker
from tests.support.programs.command import Done, Operator
from tests.support.relay import links, outbox
from tests.support.relay.worker import Worker
from tests.support.topic import topics
from tests.support.topic.rebuilt import TableSubscriber
from tests.support.waiting import TIMEOUT_S

pytestmark = pytest.mark.xdist_group("a proxy to Kafka")

EVENTS = 8_000
KEYS = 100
LATE = 5
PAGE = 2_000
DOCUMENTS = 300
ENTITIES = 21
"""No divisor of PAGE: the last document of a page continues on the next one."""
REPLAY = ("replay", "--from", "2020-01-01", "--to", "2100-01-01", "--yes")

# Each document is linked with each entity.
LINK_ALL = """
WITH linked AS (
    UPDATE documents SET version = $2
)
INSERT INTO document_links (workspace_id, document_id, entity_type, entity_id, id, created_at)
SELECT d.workspace_id, d.id, $1, e.id, gen_random_uuid(), now()
FROM documents AS d
CROSS JOIN entities AS e
"""


class Stage(NamedTuple):
    """An operator whose commands reach Kafka through a proxy; `kafka` is the broker's own address."""

    operator: Operator
    proxy: KafkaProxy
    kafka: str
    topic: str

    async def interrupt(self, number: int, target: str, *arguments: str) -> Done:
        """Send a signal to a command while its second page is in flight; return how it has ended."""
        held, released = asyncio.Event(), asyncio.Event()

        async def watch(way: Way, key: int) -> bool:
            if (way, key) == ("request", PRODUCE) and await has_a_page():
                held.set()
                await released.wait()
            return True

        async def has_a_page() -> bool:
            return sum((await topics.ends(self.kafka, target)).values()) >= PAGE - ENTITIES

        self.proxy.watch = watch
        process = await self.operator.start(*arguments)
        async with asyncio.timeout(TIMEOUT_S):
            await held.wait()
            process.send_signal(number)
            if number == signal.SIGKILL:
                await process.wait()
        released.set()
        done = await self.operator.end_of(process)
        self.proxy.watch = None
        return done


@pytest.fixture
def stage(database: str, broker: Broker, proxy: KafkaProxy, topic: str) -> Stage:
    """Return the stage of a test."""
    env = {
        "DATABASE_URL": database,
        "KAFKA_BOOTSTRAP_SERVERS": broker.outside,
        "OUTBOX_TOPIC": topic,
    }
    return Stage(Operator(env), proxy, broker.inside, topic)


def by_key(pairs: list[tuple[bytes, bytes]]) -> dict[bytes, list[bytes]]:
    """Return the values of each key in the order of their first occurrences."""
    found: dict[bytes, dict[bytes, None]] = defaultdict(dict)
    for key, value in pairs:
        found[key].setdefault(value)
    return {key: list(values) for key, values in found.items()}


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP, signal.SIGKILL])
async def test_a_resumed_replay_loses_nothing(
    database: str, connection: asyncpg.Connection, stage: Stage, number: int
) -> None:
    """After a signal, --resume publishes the rest: each event once, in order; after a kill at least once.

    The events of a transaction that was open at the first run are published too, although their
    positions lie before the place where the run stopped.
    """
    target = f"{stage.topic}.replay"
    late = await asyncpg.connect(database)
    async with late.transaction():
        for each in range(LATE):
            await outbox.insert_event(late, "late/1", str(each))
        await outbox.insert_events(connection, EVENTS, KEYS)
        done = await stage.interrupt(number, target, *REPLAY)
    await late.close()
    before = len(await topics.read_all(stage.kafka, target))
    assert PAGE <= before < EVENTS
    if number == signal.SIGKILL:
        assert done.code == -signal.SIGKILL
    else:
        assert (done.code, len(done.errors.splitlines())) == (1, 1)
        assert f"interrupted; {target} has {before} of {EVENTS} events" in done.errors
        why = f"interrupted by {signal.Signals(number).name}"
        assert await connection.fetchval("SELECT error FROM outbox_tasks") == why
    resumed = await stage.operator.run(*REPLAY, "--resume", "--json")
    assert resumed.code == 0, resumed.errors
    records = await topics.read_all(stage.kafka, target)
    rows = await connection.fetch("SELECT key, payload FROM outbox ORDER BY position")
    published = by_key([(record.key, record.value) for record in records])
    assert published == by_key([(key.encode(), payload) for key, payload in rows])
    if number != signal.SIGKILL:
        assert len(records) == EVENTS + LATE == before + resumed.report["events"]
    again = await stage.operator.run(*REPLAY, "--resume")
    assert (again.code, "no interrupted replay" in again.errors) == (1, True)


async def test_a_topic_that_was_made_again_is_not_resumed(
    connection: asyncpg.Connection, stage: Stage
) -> None:
    """--resume refuses a topic that has lost the first part of the events; a new run publishes all."""
    target = f"{stage.topic}.replay"
    await outbox.insert_events(connection, EVENTS, KEYS)
    await stage.interrupt(signal.SIGINT, target, *REPLAY)
    await topics.delete(stage.kafka, target)
    resumed = await stage.operator.run(*REPLAY, "--resume")
    assert (resumed.code, "was made again: leave out --resume" in resumed.errors) == (1, True)
    done = await stage.operator.run(*REPLAY)
    assert (done.code, "an earlier run has published" in done.errors) == (0, True)
    assert len(await topics.read_all(stage.kafka, target)) == EVENTS


@pytest.fixture
async def linked(
    database: str, connection: asyncpg.Connection, stage: Stage
) -> AsyncIterator[asyncpg.Connection]:
    """Yield a connection to a database with several pages of links, whose worker runs."""
    await links.seed(connection, DOCUMENTS, ENTITIES)
    await connection.execute(LINK_ALL, links.TYPE, ENTITIES)
    with Worker(database, stage.kafka, stage.topic) as worker:
        await worker.leading()
        yield connection


async def change(connection: asyncpg.Connection) -> None:
    """Unlink each document from one entity, or link it again."""
    for document in range(1, DOCUMENTS + 1):
        await links.toggle(connection, f"doc_{document}", "1")


async def known_after(
    subscriber: TableSubscriber, stage: Stage, snapshot: Done, events: int
) -> set[str]:
    """Return a subscriber's active links: those of the snapshot, changed by the live events after it."""
    assert snapshot.code == 0, snapshot.errors
    await subscriber.read(stage.kafka, f"{stage.topic}.snapshot")
    assert set(subscriber.table.snapshots.values()) == {snapshot.report["snapshot_id"]}
    await subscriber.apply(await topics.wait_for_count(stage.kafka, stage.topic, events))
    return await subscriber.active()


async def test_a_resumed_snapshot_is_right(
    linked: asyncpg.Connection, stage: Stage, subscriber: TableSubscriber
) -> None:
    """With links that change between Ctrl-C and --resume, a subscriber has the active links in the end."""
    target = f"{stage.topic}.snapshot"
    done = await stage.interrupt(signal.SIGINT, target, "snapshot", "--yes")
    assert (done.code, len(done.errors.splitlines())) == (1, 1)
    assert "run the command again with --resume" in done.errors
    await subscriber.read(stage.kafka, target)
    assert await subscriber.active() == set()
    await change(linked)
    resumed = await stage.operator.run("snapshot", "--yes", "--resume", "--json")
    assert resumed.report["snapshot_id"] in done.errors
    await change(linked)
    known = await known_after(subscriber, stage, resumed, 2 * DOCUMENTS)
    assert known == await links.active_links(linked)


async def test_a_killed_snapshot_is_not_resumed(
    linked: asyncpg.Connection, stage: Stage, subscriber: TableSubscriber
) -> None:
    """After a kill it is unknown which links are in the topic: --resume refuses, a new snapshot is right."""
    target = f"{stage.topic}.snapshot"
    await stage.interrupt(signal.SIGKILL, target, "snapshot", "--yes")
    await change(linked)
    resumed = await stage.operator.run("snapshot", "--yes", "--resume")
    assert (resumed.code, "leave out --resume, and it begins again" in resumed.errors) == (1, True)
    done = await stage.operator.run("snapshot", "--yes", "--json")
    known = await known_after(subscriber, stage, done, DOCUMENTS)
    assert known == await links.active_links(linked)
