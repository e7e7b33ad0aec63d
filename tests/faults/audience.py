"""A consumer that reads the topic all the time, and counts what a subscriber must not see."""

import asyncio
import time
from collections import Counter
from datetime import datetime
from typing import Final, Self

import msgspec
from aiokafka import AIOKafkaConsumer

POLL_MS: Final = 200


class Heard(msgspec.Struct, frozen=True):
    """The fields of an event that show a loss, a duplicate or a wrong order."""

    id: str
    time: datetime
    partitionkey: str
    sequence: str


class Audience:
    """Reads the topic with `read_committed` until the context ends."""

    def __init__(self, kafka: str, topic: str) -> None:
        self._consumer = AIOKafkaConsumer(
            topic,
            bootstrap_servers=kafka,
            isolation_level="read_committed",
            auto_offset_reset="earliest",
        )
        self.times: Counter[str] = Counter()
        self.longest_s = 0.0
        self.last_at = 0.0
        self.out_of_order = 0
        self._last: dict[str, int] = {}

    async def __aenter__(self) -> Self:
        """Begin to read."""
        await self._consumer.start()
        self._task = asyncio.create_task(self._listen())
        return self

    async def __aexit__(self, *_: object) -> None:
        """Stop reading."""
        self._task.cancel()
        await asyncio.wait([self._task])
        await self._consumer.stop()

    async def _listen(self) -> None:
        while True:
            batches = await self._consumer.getmany(timeout_ms=POLL_MS)
            now = time.time()
            for records in batches.values():
                for record in records:
                    self._hear(msgspec.json.decode(record.value, type=Heard), now)

    def _hear(self, event: Heard, now: float) -> None:
        self.times[event.id] += 1
        if self.times[event.id] > 1:
            return
        self.last_at = now
        self.longest_s = max(self.longest_s, now - event.time.timestamp())
        version = int(event.sequence)
        self.out_of_order += version != self._last.get(event.partitionkey, 0) + 1
        self._last[event.partitionkey] = version

    @property
    def twice(self) -> int:
        """The number of repeated events."""
        return sum(count - 1 for count in self.times.values())
