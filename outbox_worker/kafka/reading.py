"""Bounded reads of a topic: from an offset to an end that existed when the read began.

A consumer of committed records waits at the last stable offset while a transaction is open, and at
any offset while the partition has no leader. Each read here ends within a time limit:
ReadStalledError names the partition and the offset.
"""

import asyncio
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Any, Self

from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.errors import KafkaTimeoutError

READ_TIMEOUT_S = 15
STALLED_S = 30
"""The longest time without a record. Kafka ends the transaction of a dead relay after 10 s, and looks
for such transactions every 10 s."""
OPEN_TRANSACTION = (
    "a producer's transaction is open there; end that producer, or abort the transaction with "
    "kafka-transactions.sh"
)
NO_ANSWER = "it has no leader, or its leader does not answer; check the brokers"
FETCH_BYTES = 4 << 20
FETCH_RECORDS = 10_000
FETCH_WAIT_MS = 200


class ReadStalledError(TimeoutError):
    """A read has made no progress for too long; the text names the partition, and the offset if known."""

    @classmethod
    def at(cls, partition: TopicPartition, offset: int, reason: str) -> Self:
        """Return the error for a partition that cannot be read beyond an offset."""
        return cls(
            f"cannot read partition {partition.partition} of {partition.topic} "
            f"beyond offset {offset}: {reason}"
        )


@asynccontextmanager
async def limited_consumer(
    client: dict[str, Any], isolation: str
) -> AsyncIterator[AIOKafkaConsumer]:
    """Yield a consumer for READ_TIMEOUT_S at most."""
    async with asyncio.timeout(READ_TIMEOUT_S), _consumer(client, isolation) as consumer:
        yield consumer


@asynccontextmanager
async def _consumer(client: dict[str, Any], isolation: str) -> AsyncIterator[AIOKafkaConsumer]:
    """Yield a consumer without a group, which raises an error for an offset that does not exist."""
    consumer = AIOKafkaConsumer(
        **client,
        isolation_level=isolation,
        auto_offset_reset="none",
        enable_auto_commit=False,
        max_partition_fetch_bytes=FETCH_BYTES,
    )
    try:
        await consumer.start()
        yield consumer
    finally:
        await consumer.stop()  # needed after a failed start too: its finalizer would warn


@asynccontextmanager
async def _explained(
    consumer: AIOKafkaConsumer, partitions: Sequence[TopicPartition]
) -> AsyncIterator[None]:
    """Raise ReadStalledError if the brokers do not tell the offsets of these partitions in time.

    It names the partitions without a leader; all of them if each has one.
    """
    try:
        yield
    except KafkaTimeoutError as error:
        client = consumer._client  # noqa: SLF001 - the consumer has no call for it
        leader = client.cluster.leader_for_partition
        leaderless = [each for each in partitions if leader(each) in {None, -1}]
        if not leaderless and (unreachable := await client.unreachable_brokers()):
            raise unreachable from error
        numbers = ", ".join(str(each.partition) for each in leaderless or partitions)
        topic = partitions[0].topic
        message = f"cannot read the offsets of partition {numbers} of {topic}: {NO_ANSWER}"
        raise ReadStalledError(message) from error


async def end_offsets(client: dict[str, Any], topic: str, partitions: int) -> dict[int, int]:
    """Return the offset after the last record of each partition, committed or not."""
    async with limited_consumer(client, "read_uncommitted") as consumer:
        asked = [TopicPartition(topic, partition) for partition in range(partitions)]
        async with _explained(consumer, asked):
            ends = await consumer.end_offsets(asked)
    return {each.partition: offset for each, offset in ends.items()}


async def start_offsets(
    client: dict[str, Any], topic: str, end_of: Mapping[int, int], since_ms: int | None
) -> dict[int, int]:
    """Return the offset of each partition's first record with this time or a later one.

    It is the partition's end if there is no such record. Without a time, it is the offset of the
    partition's first record.
    """
    ends = {TopicPartition(topic, partition): end for partition, end in end_of.items()}
    async with (
        limited_consumer(client, "read_uncommitted") as consumer,
        _explained(consumer, list(ends)),
    ):
        if since_ms is None:
            firsts: dict[TopicPartition, int] = await consumer.beginning_offsets(list(ends))
        else:
            found = await consumer.offsets_for_times(dict.fromkeys(ends, since_ms))
            firsts = {each: at.offset for each, at in found.items() if at is not None}
    return {each.partition: min(firsts.get(each, end), end) for each, end in ends.items()}


async def between(
    client: dict[str, Any], topic: str, start_of: Mapping[int, int], end_of: Mapping[int, int]
) -> AsyncIterator[list[Any]]:
    """Yield the committed records of each partition from its start to its end, in their order.

    The ends should be those of `end_offsets`. The last stable offset is too low: shortly after a commit,
    its markers may not be written yet, and its records lie beyond that offset.

    Raises:
        ReadStalledError: no partition has yielded a record for STALLED_S.
    """
    ends = {TopicPartition(topic, partition): end for partition, end in end_of.items()}
    async with _consumer(client, "read_committed") as consumer:
        consumer.assign(list(ends))
        for partition in ends:
            consumer.seek(partition, start_of[partition.partition])
        before: dict[TopicPartition, int] = {}
        moved_at = time.monotonic()
        while unread := await _unread(consumer, ends):
            if unread != before:
                before, moved_at = unread, time.monotonic()
            elif time.monotonic() - moved_at > STALLED_S:
                raise _stalled(consumer, *next(iter(unread.items())))
            async with asyncio.timeout(READ_TIMEOUT_S):
                fetched = await consumer.getmany(
                    timeout_ms=FETCH_WAIT_MS, max_records=FETCH_RECORDS
                )
            for partition, records in fetched.items():
                yield [record for record in records if record.offset < ends[partition]]


async def _unread(
    consumer: AIOKafkaConsumer, ends: Mapping[TopicPartition, int]
) -> dict[TopicPartition, int]:
    """Return the positions in the partitions that are not read to their ends."""
    positions = {partition: await consumer.position(partition) for partition in ends}
    return {each: position for each, position in positions.items() if position < ends[each]}


def _stalled(
    consumer: AIOKafkaConsumer, partition: TopicPartition, position: int
) -> ReadStalledError:
    at_stable_offset = is_at_stable_offset(consumer, partition, position)
    reason = OPEN_TRANSACTION if at_stable_offset else NO_ANSWER
    return ReadStalledError.at(partition, position, reason)


def is_at_stable_offset(
    consumer: AIOKafkaConsumer, partition: TopicPartition, position: int
) -> bool:
    """Whether a consumer has come to the last stable offset that the broker has told it."""
    stable = consumer.last_stable_offset(partition)
    return stable is not None and 0 <= stable <= position
