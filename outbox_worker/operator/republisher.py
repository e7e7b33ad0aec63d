"""Publishes the events of a replay or a snapshot: in order, at least once, without the relay."""

import asyncio
import contextlib
import re
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, Self

from aiokafka import AIOKafkaProducer
from aiokafka.errors import KafkaError

from outbox_worker.kafka import administration
from outbox_worker.kafka.publisher import BATCH_BYTES
from outbox_worker.kafka.records import CONTENT_TYPE, Packer
from outbox_worker.postgres.registration import RefusedError, Registration
from outbox_worker.settings import Compression, Settings

SEND_TIMEOUT_S = 60
CLOSE_TIMEOUT_S = 5
# The names that Kafka accepts for a topic.
TOPIC_NAME = re.compile(r"(?!\.{1,2}$)[A-Za-z0-9._-]{1,249}")
# The names of progress topics, which Registration.progress_topic makes.
PROGRESS_TOPIC = re.compile(r".*\.progress\.[0-9a-f]{16}")

Header = tuple[str, bytes]


class Target(NamedTuple):
    """The topic to write to.

    `partitions` is the number over which keys are hashed. `all_partitions` is the number in the topic,
    which may be greater, because an event topic can grow. `batch_bytes` is the size of the largest batch.
    `topic_id` is None if brokers do not tell it.
    """

    topic: str
    topic_id: str | None
    partitions: int
    all_partitions: int
    batch_bytes: int


def problem_of(topic: str) -> str | None:
    """Return why no events can be published to a topic with this name; None if they can."""
    if not TOPIC_NAME.fullmatch(topic):
        return "is not a topic name: use 1 to 249 of A-Z a-z 0-9 . _ -"
    if topic.startswith("__"):
        return "is a topic of Kafka itself: name another one"
    if PROGRESS_TOPIC.fullmatch(topic):
        return "is a relay's progress topic, which nothing else may write to: name another one"
    return None


class Republisher:
    """A producer without transactions; a context manager. All records get the same headers."""

    def __init__(
        self,
        settings: Settings,
        compression: Compression,
        target: Target,
        headers: Sequence[Header],
    ) -> None:
        self.target = target
        self.sent: Counter[int] = Counter()
        """The number of events that were sent to each partition."""
        self.ends: dict[int, int] = {}
        """The offset after the last acknowledged record of each partition."""
        self._headers = [CONTENT_TYPE, *headers]
        self._packer = Packer(target.partitions, headers)
        self._producer = AIOKafkaProducer(
            **settings.kafka_client(),
            enable_idempotence=True,
            compression_type=compression.aiokafka_type,
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
        """Return a republisher for a topic, which is made like the event topic if it is missing.

        It is made with the registered number of partitions, over which the relay hashes keys, so that a
        document has the same partition in both topics. In the event topic itself, keys are always hashed
        over this number. Batches are compressed with the relay's codec, in any topic.

        Raises:
            RefusedError: the event topic has fewer partitions than registered; or the topic is
                compacted, so that only one event of each document would remain.
        """
        registered = registration.partitions if registration else settings.partitions
        relayed = registered if registration and topic == settings.topic else None
        async with administration.connect(settings.kafka_client()) as admin:
            await admin.ensure(topic, registered, administration.EVENT_TOPIC)
            described = await admin.described(topic)
            configs = await admin.configs(topic)
        partitions = len(described.partitions)
        if relayed and partitions < relayed:
            message = f"topic {topic} has {partitions} partitions, it had {relayed}; add partitions"
            raise RefusedError(message)
        if "compact" in configs.get("cleanup.policy", ""):
            message = (
                f"topic {topic} is compacted, so it would keep one event of each document: "
                "set its cleanup.policy to delete, or name another topic with --topic"
            )
            raise RefusedError(message)
        limit = min(administration.max_batch_bytes(configs), BATCH_BYTES)
        target = Target(topic, described.id, relayed or partitions, partitions, limit)
        return cls(settings, settings.compression_of(registration), target, headers)

    async def send(self, rows: Sequence[Any]) -> None:
        """Send rows as a page has them; return when brokers have acknowledged all of them."""
        now_ms = int(time.time() * 1000)
        async with asyncio.timeout(SEND_TIMEOUT_S):
            for batches in await self._packer.pack(rows, self._producer.create_batch, now_ms):
                sent = [
                    await self._producer.send_batch(batch, self.target.topic, partition=partition)
                    for partition, batch in batches.items()
                ]
                first_offsets = [record.offset for record in await asyncio.gather(*sent)]
                for (partition, batch), first in zip(batches.items(), first_offsets, strict=True):
                    self.sent[partition] += batch.record_count()
                    self.ends[partition] = first + batch.record_count()

    async def send_to_each(self, key: bytes, value_of: Mapping[int, bytes]) -> None:
        """Send each partition its value; return when brokers have acknowledged all of them."""
        async with asyncio.timeout(SEND_TIMEOUT_S):
            sent = [
                await self._producer.send(
                    self.target.topic, value, key, partition, headers=self._headers
                )
                for partition, value in value_of.items()
            ]
            for record in await asyncio.gather(*sent):
                self.ends[record.partition] = record.offset + 1

    async def __aenter__(self) -> Self:
        """Connect."""
        await self._producer.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        """Disconnect. All records are acknowledged already, so the time limit loses none."""
        with contextlib.suppress(TimeoutError, KafkaError):
            async with asyncio.timeout(CLOSE_TIMEOUT_S):
                await self._producer.stop()
