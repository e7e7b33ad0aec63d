"""What relays an outbox to a topic: our worker, and its peers beside it."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from uuid import uuid4

from aiokafka import AIOKafkaConsumer
from aiokafka.admin import NewTopic

from deploy.local.process import Process, say
from deploy.local.programs import worker_program
from tests.benchmarks.peers.cdc import Cdc
from tests.benchmarks.peers.connect import Connect
from tests.benchmarks.peers.debezium import Source
from tests.benchmarks.peers.polling import Polling
from tests.benchmarks.relay import (
    AT_LEAST_ONCE,
    COMPRESSIONS,
    DELIVERIES,
    EXACTLY_ONCE,
    Relay,
    Variant,
    Waiting,
)
from tests.benchmarks.stage import Stage, fill
from tests.support.topic import topics

PARTITIONS = 12


class Worker:
    """`outbox_worker`."""

    def __init__(self, stage: Stage, variant: Variant) -> None:
        self.name = variant.name
        self.warm = True
        self._stage = stage
        self._settings = {
            "OUTBOX_DELIVERY": variant.delivery,
            "OUTBOX_COMPRESSION": variant.compression,
        }

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

    def __init__(self, stage: Stage, variant: Variant, connect: Connect) -> None:
        self.name = f"debezium.{variant.name}"
        self.warm = False
        self._stage = stage
        self._connect = connect
        self._changes = {
            "exactly.once.support": "required" if variant.delivery == EXACTLY_ONCE else "requested",
            "producer.override.compression.type": variant.compression,
        }

    @asynccontextmanager
    async def waiting(self, events: int) -> AsyncIterator[Waiting]:
        """Yield a database with so many events: written after its slot was made."""
        database = await self._stage.make_database("bench_debezium")
        async with Source(database.dsn) as source:
            if events:
                await fill(database, events)

            @asynccontextmanager
            async def relayed(topic: str) -> AsyncIterator[Process]:
                async with source.relayed(self._connect, topic, **self._changes):
                    yield self._connect.process

            yield Waiting(database, relayed)


async def relays(stage: Stage) -> list[Relay]:
    """Return our worker and, if wanted, its peers; Debezium starts at the first call and stays.

    They take turns: each delivery and compression with our worker and then with each peer.
    """
    if not stage.relays:
        for delivery in DELIVERIES:
            if stage.scale.peers:
                stage.relays += await _beside_peers(stage, delivery)
            else:
                stage.relays.append(Worker(stage, Variant(delivery)))
    return stage.relays


async def _beside_peers(stage: Stage, delivery: str) -> list[Relay]:
    """Return all relays with a delivery guarantee, without compression and with zstd."""
    say(f"starting Kafka Connect for Debezium, {delivery} …")
    connect = Connect(stage.bootstrap, exactly_once=delivery == EXACTLY_ONCE)
    stage.running.enter_context(connect)
    await connect.ready()
    found: list[Relay] = []
    for compression in COMPRESSIONS:
        variant = Variant(delivery, compression)
        found += [Worker(stage, variant), Debezium(stage, variant, connect), Cdc(stage, variant)]
        if delivery == AT_LEAST_ONCE:
            found.append(Polling(stage, variant))
    return found


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
