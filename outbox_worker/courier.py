"""Publishes rows beside the relay: replays and snapshots, in order, at least once."""

import asyncio
import time
from collections.abc import Sequence
from types import TracebackType
from typing import Any, NamedTuple, Self

from aiokafka import AIOKafkaProducer

from outbox_worker import topics
from outbox_worker.publisher import BATCH_BYTES
from outbox_worker.records import Packer
from outbox_worker.registration import RefusedError, Registration
from outbox_worker.settings import Settings

SEND_TIMEOUT_S = 60


class Target(NamedTuple):
    """A topic as it is written to: how keys are hashed, and how large a batch may be."""

    topic: str
    partitions: int
    batch_bytes: int


class Courier:
    """A producer without transactions, as a context manager; every record carries the mark."""

    def __init__(self, settings: Settings, target: Target, mark: str) -> None:
        self._topic = target.topic
        self._packer = Packer(target.partitions, [(mark, b"true")])
        self._producer = AIOKafkaProducer(
            **settings.kafka_client(),
            enable_idempotence=True,
            compression_type=settings.compression_type,
            max_batch_size=target.batch_bytes,
        )

    @classmethod
    async def to(
        cls, settings: Settings, topic: str, mark: str, registration: Registration | None
    ) -> Self:
        """Return one for a topic, which is made like the event topic unless it is there.

        In the event topic itself a document's events must lie where the relay puts them: keys are
        hashed by the registered count, however many partitions there are. RefusedError where
        there are fewer.
        """
        relayed = registration.partitions if registration and topic == settings.topic else None
        async with topics.administration(settings.kafka_client()) as admin:
            await admin.ensure(topic, relayed or settings.partitions, topics.EVENT_TOPIC)
            partitions = await admin.partitions(topic)
            limit = topics.largest_batch(await admin.configs(topic))
        if relayed and partitions < relayed:
            message = f"topic {topic} has {partitions} partitions, its events go to {relayed}"
            raise RefusedError(message)
        return cls(settings, Target(topic, relayed or partitions, min(limit, BATCH_BYTES)), mark)

    async def send(self, rows: Sequence[Any]) -> None:
        """Send rows as the window gives them; return when the broker has them all."""
        moment = int(time.time() * 1000)
        async with asyncio.timeout(SEND_TIMEOUT_S):
            for batches in self._packer.pack(rows, self._producer.create_batch, moment):
                sent = [
                    await self._producer.send_batch(batch, self._topic, partition=partition)
                    for partition, batch in batches.items()
                ]
                await asyncio.gather(*sent)

    async def __aenter__(self) -> Self:
        """Connect."""
        await self._producer.start()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Disconnect."""
        async with asyncio.timeout(SEND_TIMEOUT_S):
            await self._producer.stop()
