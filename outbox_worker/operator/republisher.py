"""Publishes rows beside the relay: replays and snapshots, in order, at least once."""

import asyncio
import contextlib
import re
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from types import TracebackType
from typing import Any, NamedTuple, Self

from aiokafka import AIOKafkaProducer
from aiokafka.errors import KafkaError

from outbox_worker.kafka import administration
from outbox_worker.kafka.publisher import BATCH_BYTES
from outbox_worker.kafka.records import CONTENT_TYPE, Packer
from outbox_worker.postgres.registration import RefusedError, Registration
from outbox_worker.settings import Settings

SEND_TIMEOUT_S = 60
CLOSE_TIMEOUT_S = 5
# What Kafka accepts as a topic's name.
TOPIC_NAME = re.compile(r"(?!\.{1,2}$)[A-Za-z0-9._-]{1,249}")
# What the relay calls its progress topic: see Registration.progress_topic.
PROGRESS_TOPIC = re.compile(r".*\.progress\.[0-9a-f]{16}")

Header = tuple[str, bytes]


class Target(NamedTuple):
    """A topic as it is written to.

    `partitions`: how many of them keys are hashed over; `all_partitions`: how many there are,
    which is more in an event topic that has grown. `batch_bytes`: the largest batch.
    """

    topic: str
    partitions: int
    all_partitions: int
    batch_bytes: int


def problem_of(topic: str) -> str | None:
    """Return why events cannot be published to a topic with this name; None if they can."""
    if not TOPIC_NAME.fullmatch(topic):
        return "is no topic name: use 1 to 249 of A-Z a-z 0-9 . _ -"
    if topic.startswith("__"):
        return "is a topic of Kafka itself: name another one"
    if PROGRESS_TOPIC.fullmatch(topic):
        return "is a relay's progress topic, which nothing else may write to: name another one"
    return None


class Republisher:
    """A producer without transactions, as a context manager; every record has the same headers."""

    def __init__(self, settings: Settings, target: Target, headers: Sequence[Header]) -> None:
        self.target = target
        self.sent: Counter[int] = Counter()
        """How many records each partition has got."""
        self._headers = [CONTENT_TYPE, *headers]
        self._packer = Packer(target.partitions, headers)
        self._producer = AIOKafkaProducer(
            **settings.kafka_client(),
            enable_idempotence=True,
            compression_type=settings.compression_type,
            max_batch_size=target.batch_bytes,
        )

    @classmethod
    async def to(
        cls,
        settings: Settings,
        topic: str,
        headers: Sequence[Header],
        registration: Registration | None,
    ) -> Self:
        """Return one for a topic, which is made like the event topic unless it is there.

        In the event topic itself a document's events must lie where the relay puts them: keys are
        hashed by the registered count, however many partitions there are. RefusedError where
        there are fewer, or where the topic is compacted: one event of each document would remain.
        """
        relayed = registration.partitions if registration and topic == settings.topic else None
        async with administration.connect(settings.kafka_client()) as admin:
            await admin.ensure(topic, relayed or settings.partitions, administration.EVENT_TOPIC)
            partitions = await admin.partitions(topic)
            configs = await admin.configs(topic)
        if relayed and partitions < relayed:
            message = f"topic {topic} has {partitions} partitions, its events go to {relayed}"
            raise RefusedError(message)
        if "compact" in configs.get("cleanup.policy", ""):
            message = (
                f"topic {topic} is compacted, so it would keep one event of each document: "
                "set its cleanup.policy to delete, or name another topic with --topic"
            )
            raise RefusedError(message)
        limit = min(administration.max_batch_bytes(configs), BATCH_BYTES)
        return cls(settings, Target(topic, relayed or partitions, partitions, limit), headers)

    async def send(self, rows: Sequence[Any]) -> None:
        """Send rows as the window gives them; return when the broker has them all."""
        now_ms = int(time.time() * 1000)
        async with asyncio.timeout(SEND_TIMEOUT_S):
            for batches in self._packer.pack(rows, self._producer.create_batch, now_ms):
                sent = []
                for partition, batch in batches.items():
                    self.sent[partition] += batch.record_count()
                    sent.append(
                        await self._producer.send_batch(
                            batch, self.target.topic, partition=partition
                        )
                    )
                await asyncio.gather(*sent)

    async def send_to_each(self, key: bytes, value_of: Mapping[int, bytes]) -> None:
        """Send each partition its value; return when the broker has them all."""
        async with asyncio.timeout(SEND_TIMEOUT_S):
            sent = [
                await self._producer.send(
                    self.target.topic, value, key, partition, headers=self._headers
                )
                for partition, value in value_of.items()
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
        """Disconnect. What was sent is acknowledged already, so that nothing is lost by the limit."""
        with contextlib.suppress(TimeoutError, KafkaError):
            async with asyncio.timeout(CLOSE_TIMEOUT_S):
                await self._producer.stop()
