"""The relay's progress topic: one partition, compacted, whose last progress record is the cursor."""

import time
from collections.abc import Sequence
from typing import Any, NamedTuple

from aiokafka import AIOKafkaConsumer, TopicPartition

from outbox_worker.kafka import administration, reading
from outbox_worker.kafka.records import PROGRESS_KEY
from outbox_worker.postgres.progress import Progress

OPEN_TRANSACTION_WAIT_S = 10
"""The longest wait for the end of an open transaction. Brokers abort a dead relay's after 10 s."""
FIRST_STEP = 10
"""The number of offsets before the end from which on the last record is searched. Transaction markers and
aborted records have offsets too, so the number grows tenfold until a record is found."""


class LastProgress(NamedTuple):
    """The last progress record, and what hides or follows it.

    `hidden_from` is the offset from which an open transaction hides committed records; None: the
    topic was read to its end. `strays` are the offsets of later records that are no progress records.
    """

    record: Progress | None
    hidden_from: int | None = None
    strays: Sequence[int] = ()


def parse(key: bytes | None, value: bytes | None) -> Progress | None:
    """Return the progress record in a Kafka record; None if the record is something else."""
    return Progress.parse(value) if key == PROGRESS_KEY and value is not None else None


async def last(client: dict[str, Any], topic: str, *, wait_s: float) -> LastProgress:
    """Return the last committed progress record of a topic.

    If a transaction stays open for `wait_s`, only the records before it are read. An error is raised, and
    never taken for "no record".
    """
    end = (await reading.end_offsets(client, topic, 1))[0]
    partition = TopicPartition(topic, 0)
    async with reading.limited_consumer(client, "read_committed") as consumer:
        consumer.assign([partition])
        first = (await consumer.beginning_offsets([partition]))[partition]
        deadline = time.monotonic() + wait_s
        hidden_from, step = None, FIRST_STEP
        while True:
            start = max(first, end - step)
            records, reached = await _committed(consumer, partition, start, end, deadline)
            if reached < end:
                hidden_from = end = reached
            strays: list[int] = []
            for record in reversed(records):
                if progress := parse(record.key, record.value):
                    return LastProgress(progress, hidden_from, strays)
                strays.append(record.offset)
            if start == first:
                return LastProgress(None, hidden_from, strays)
            step *= 10


async def read(client: dict[str, Any], topic: str) -> Progress | None:
    """Return the last progress record; None if the topic has none, or does not exist.

    Raises:
        ReadStalledError: an open transaction hides the end of the topic.
    """
    async with administration.connect(client) as admin:
        if not await admin.exists(topic):
            return None
    found = await last(client, topic, wait_s=OPEN_TRANSACTION_WAIT_S)
    if found.hidden_from is not None:
        partition = TopicPartition(topic, 0)
        raise reading.ReadStalledError.at(partition, found.hidden_from, reading.OPEN_TRANSACTION)
    return found.record


async def _committed(
    consumer: AIOKafkaConsumer, partition: TopicPartition, start: int, end: int, deadline: float
) -> tuple[list[Any], int]:
    """Return the committed records from start to end, and the offset up to which they were read.

    That offset is less than `end` if the last stable offset still is at the deadline.
    """
    consumer.seek(partition, start)
    found: list[Any] = []
    while (reached := await consumer.position(partition)) < end:
        if (
            reading.is_at_stable_offset(consumer, partition, reached)
            and time.monotonic() > deadline
        ):
            break
        fetched = await consumer.getmany(partition, timeout_ms=reading.FETCH_WAIT_MS)
        for records in fetched.values():
            found += records
    return [record for record in found if record.offset < end], reached
