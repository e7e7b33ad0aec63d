"""What relays an outbox to a topic: our worker, and Debezium beside it."""

from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import NamedTuple, Protocol, Self
from uuid import uuid4

from aiokafka import AIOKafkaConsumer
from aiokafka.admin import NewTopic

from deploy.local.process import Process, say
from deploy.local.programs import worker_program
from tests.benchmarks.peers.connect import Connect
from tests.benchmarks.peers.debezium import Source
from tests.benchmarks.stage import Database, Stage, fill
from tests.support.topic import topics

DELIVERIES = ("at-least-once", "exactly-once")
PARTITIONS = 12


class Waiting(NamedTuple):
    """A database whose events wait for its relay."""

    database: Database
    relayed: "Relayed"


class Relayed(Protocol):
    """Lets the relay run, to a topic, for as long as the context lasts."""

    def __call__(self, topic: str) -> AbstractAsyncContextManager[Process]:
        """Yield the relay's process."""


class Relay(Protocol):
    """A relay with a delivery guarantee; its name begins the names of its figures."""

    name: str
    warm: bool

    def waiting(self, events: int) -> AbstractAsyncContextManager[Waiting]:
        """Yield a database with so many events."""


class Worker:
    """`outbox_worker`."""

    def __init__(self, stage: Stage, delivery: str, **settings: str) -> None:
        self.name = delivery
        self.warm = True
        self._stage = stage
        self._settings = {"OUTBOX_DELIVERY": delivery, **settings}

    @asynccontextmanager
    async def waiting(self, events: int) -> AsyncIterator[Waiting]:
        """Yield a database with so many events."""
        database = await self._stage.make_database("bench_relay", events)

        @asynccontextmanager
        async def relayed(topic: str) -> AsyncIterator[Process]:
            settings = {**self._settings, "OUTBOX_TOPIC": topic}
            stage = self._stage
            worker = worker_program(database.dsn, stage.bootstrap, stage.logs, **settings)
            worker.start()
            try:
                yield worker
            finally:
                worker.end()

        yield Waiting(database, relayed)


class Debezium:
    """Debezium on a Connect worker that stays up, so that its JVM is warm."""

    def __init__(self, stage: Stage, delivery: str) -> None:
        self.name = f"debezium.{delivery}"
        self.warm = False
        self._stage = stage
        self._exactly_once = delivery == "exactly-once"
        self._connect = Connect(stage.bootstrap, exactly_once=self._exactly_once)

    async def __aenter__(self) -> Self:
        """Start Connect."""
        self._connect.__enter__()
        await self._connect.ready()
        return self

    async def __aexit__(self, *_: object) -> None:
        """End Connect."""
        self._connect.__exit__()

    @asynccontextmanager
    async def waiting(self, events: int) -> AsyncIterator[Waiting]:
        """Yield a database with so many events: written after its slot was made."""
        database = await self._stage.make_database("bench_debezium")
        async with Source(database.dsn) as source:
            if events:
                await fill(database, events)

            @asynccontextmanager
            async def relayed(topic: str) -> AsyncIterator[Process]:
                support = "required" if self._exactly_once else "requested"
                changes = {"exactly.once.support": support}
                async with source.relayed(self._connect, topic, **changes):
                    yield self._connect.process

            yield Waiting(database, relayed)


async def relays(stage: Stage) -> list[Relay]:
    """Return ours and, if wanted, Debezium, which starts at the first call and stays.

    They take turns: each delivery with one and then with the other.
    """
    if not stage.relays:
        for delivery in DELIVERIES:
            stage.relays.append(Worker(stage, delivery))
            if stage.scale.peers:
                say(f"starting Kafka Connect for Debezium, {delivery} …")
                debezium = Debezium(stage, delivery)
                stage.relays.append(await stage.running.enter_async_context(debezium))
    return stage.relays


@asynccontextmanager
async def topic_with_consumer(bootstrap: str) -> AsyncIterator[tuple[str, AIOKafkaConsumer]]:
    """Yield a new topic, made as the worker would make it, and a consumer at its beginning."""
    topic = f"bench-{uuid4().hex}"
    async with topics.administration(bootstrap) as admin:
        forever = {"cleanup.policy": "delete", "retention.ms": "-1"}
        await admin.create_topics([NewTopic(topic, PARTITIONS, 1, topic_configs=forever)])
        consumer = AIOKafkaConsumer(
            topic, bootstrap_servers=bootstrap, isolation_level="read_committed",
            auto_offset_reset="earliest", max_partition_fetch_bytes=8 << 20,
        )  # fmt: skip
        await consumer.start()
        try:
            yield topic, consumer
        finally:
            await consumer.stop()
            await admin.delete_topics([topic])
