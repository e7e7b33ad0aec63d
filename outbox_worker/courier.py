"""Publishes rows beside the relay: replays and snapshots, in order, at least once."""

import asyncio
import time
from collections.abc import Sequence
from types import TracebackType
from typing import Any, Self

from aiokafka import AIOKafkaProducer

from outbox_worker import topics
from outbox_worker.records import Packer
from outbox_worker.settings import Settings

SEND_TIMEOUT_S = 60
BATCH_BYTES = 500_000


class Courier:
    """A producer without transactions, as a context manager; every record carries the mark."""

    def __init__(self, settings: Settings, topic: str, partitions: int, mark: str) -> None:
        self._topic = topic
        self._packer = Packer(partitions, [(mark, b"true")])
        self._producer = AIOKafkaProducer(
            **settings.kafka_client(), enable_idempotence=True, max_batch_size=BATCH_BYTES
        )

    @classmethod
    async def to(cls, settings: Settings, topic: str, mark: str) -> Self:
        """Return one for a topic, which is made like the event topic unless it is there."""
        async with topics.administration(settings.kafka_client()) as admin:
            await admin.ensure(topic, settings.partitions, topics.EVENT_TOPIC)
            return cls(settings, topic, await admin.partitions(topic), mark)

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
