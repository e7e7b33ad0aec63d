"""Bounded reads of a topic: from an offset to an end that was there when the read began.

A consumer of committed records stands still at the last stable offset while a transaction is
open, and at any offset while the partition has no leader. Each read here ends in bounded time:
ReadStalledError names the partition and the offset.
"""

import asyncio
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Any, NamedTuple

from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.errors import KafkaTimeoutError

from outbox_worker.kafka.progress import Progress, parse

READ_TIMEOUT_S = 15
# The longest time without a record. Kafka ends the transaction of a relay that died after 10 s,
# and looks for such transactions every 10 s.
STALLED_S = 30
# How long the end of an open transaction is waited for on the progress topic.
PATIENCE_S = 10
OPEN = (
    "a producer's transaction is open there; end that producer, or abort the transaction with "
    "kafka-transactions.sh"
)
NO_ANSWER = "it has no leader, or its leader does not answer; look at the brokers"
FETCH_BYTES = 4 << 20
FETCH_RECORDS = 10_000
FETCH_WAIT_MS = 200
# How many offsets before the end the last record is looked for first. Markers of transactions and
# aborted records have offsets too, so the step grows until a record is found.
FIRST_STEP = 10


class ReadStalledError(TimeoutError):
    """A read has come no further for too long; the text names the partition, and the offset if known."""


class LastProgress(NamedTuple):
    """The last progress record, and what stood in the way of reading it.

    `hidden_from`: the offset from which an open transaction hides committed records; None: the
    topic was read to its end. `strays`: the offsets of later records that are something else.
    """

    record: Progress | None
    hidden_from: int | None = None
    strays: Sequence[int] = ()


@asynccontextmanager
async def _reader(client: dict[str, Any], isolation: str) -> AsyncIterator[AIOKafkaConsumer]:
    """Yield a consumer without a group, that raises where there is nothing to read."""
    async with asyncio.timeout(READ_TIMEOUT_S), _consumer(client, isolation) as consumer:
        yield consumer


@asynccontextmanager
async def _consumer(client: dict[str, Any], isolation: str) -> AsyncIterator[AIOKafkaConsumer]:
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
        await consumer.stop()  # also one whose start has failed: its finalizer would warn


@asynccontextmanager
async def _answered(
    consumer: AIOKafkaConsumer, places: Sequence[TopicPartition]
) -> AsyncIterator[None]:
    """Raise ReadStalledError if the brokers do not tell the offsets of these partitions in time.

    It names the partitions without a leader; all of them if each has one.
    """
    try:
        yield
    except KafkaTimeoutError as error:
        client = consumer._client  # noqa: SLF001 - the consumer has no call for it
        leader = client.cluster.leader_for_partition
        leaderless = [place for place in places if leader(place) in {None, -1}]
        if not leaderless and (obstacle := await client.obstacle()):
            raise obstacle from error
        numbers = ", ".join(str(place.partition) for place in leaderless or places)
        message = f"cannot look up offsets in partition {numbers} of {places[0].topic}: {NO_ANSWER}"
        raise ReadStalledError(message) from error


async def end_offsets(client: dict[str, Any], topic: str, partitions: int) -> dict[int, int]:
    """Return the offset after the last record of each partition, committed or not."""
    async with _reader(client, "read_uncommitted") as consumer:
        places = [TopicPartition(topic, partition) for partition in range(partitions)]
        async with _answered(consumer, places):
            ends = await consumer.end_offsets(places)
    return {place.partition: offset for place, offset in ends.items()}


async def start_offsets(
    client: dict[str, Any], topic: str, end_of: Mapping[int, int], since_ms: int | None
) -> dict[int, int]:
    """Return the offset of each partition's first record with that time or a later one.

    The end where there is none; without a time the offset of the very first record.
    """
    ends = {TopicPartition(topic, partition): end for partition, end in end_of.items()}
    async with _reader(client, "read_uncommitted") as consumer, _answered(consumer, list(ends)):
        if since_ms is None:
            firsts: dict[TopicPartition, int] = await consumer.beginning_offsets(list(ends))
        else:
            found = await consumer.offsets_for_times(dict.fromkeys(ends, since_ms))
            firsts = {place: at.offset for place, at in found.items() if at is not None}
    return {place.partition: min(firsts.get(place, end), end) for place, end in ends.items()}


async def last_progress(client: dict[str, Any], topic: str, *, patience_s: float) -> LastProgress:
    """Return the last committed progress record of a topic, which has one partition.

    While a transaction is open, its end is waited for `patience_s`; then the records before it
    are all that is read. An error is an error, never "no record".
    """
    end = (await end_offsets(client, topic, 1))[0]
    place = TopicPartition(topic, 0)
    async with _reader(client, "read_committed") as consumer:
        consumer.assign([place])
        first = (await consumer.beginning_offsets([place]))[place]
        deadline = time.monotonic() + patience_s
        hidden_from, step = None, FIRST_STEP
        while True:
            start = max(first, end - step)
            records, reached = await _committed(consumer, place, start, end, deadline)
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


async def progress(client: dict[str, Any], topic: str) -> Progress | None:
    """Return the last progress record, None without one; ReadStalledError if one may be hidden."""
    found = await last_progress(client, topic, patience_s=PATIENCE_S)
    if found.hidden_from is not None:
        raise ReadStalledError(_stalled(TopicPartition(topic, 0), found.hidden_from, OPEN))
    return found.record


async def _committed(
    consumer: AIOKafkaConsumer, place: TopicPartition, start: int, end: int, deadline: float
) -> tuple[list[Any], int]:
    """Return the committed records from start to end, and the offset up to which they were read.

    That is less than `end` if the last stable offset is, at the deadline.
    """
    consumer.seek(place, start)
    found: list[Any] = []
    while (reached := await consumer.position(place)) < end:
        if _is_held(consumer, place, reached) and time.monotonic() > deadline:
            break
        for records in (await consumer.getmany(place, timeout_ms=FETCH_WAIT_MS)).values():
            found += records
    return [record for record in found if record.offset < end], reached


def _is_held(consumer: AIOKafkaConsumer, place: TopicPartition, position: int) -> bool:
    """Whether a consumer has come to the last stable offset, as far as the broker has told it."""
    stable = consumer.last_stable_offset(place)
    return stable is not None and 0 <= stable <= position


async def between(
    client: dict[str, Any], topic: str, start_of: Mapping[int, int], end_of: Mapping[int, int]
) -> AsyncIterator[list[Any]]:
    """Yield the committed records from the start to the end of each partition; in order within each.

    The ends should be those of uncommitted records: for a moment after a commit its markers
    are still on their way, and committed records seem to end before it. ReadStalledError if no
    partition comes further for STALLED_S.
    """
    ends = {TopicPartition(topic, partition): end for partition, end in end_of.items()}
    async with _consumer(client, "read_committed") as consumer:
        consumer.assign(list(ends))
        for place in ends:
            consumer.seek(place, start_of[place.partition])
        before: dict[TopicPartition, int] = {}
        moved_at = time.monotonic()
        while short := await _short(consumer, ends):
            if short != before:
                before, moved_at = short, time.monotonic()
            elif time.monotonic() - moved_at > STALLED_S:
                raise ReadStalledError(_reason(consumer, short))
            async with asyncio.timeout(READ_TIMEOUT_S):
                fetched = await consumer.getmany(
                    timeout_ms=FETCH_WAIT_MS, max_records=FETCH_RECORDS
                )
            for place, records in fetched.items():
                yield [record for record in records if record.offset < ends[place]]


async def _short(
    consumer: AIOKafkaConsumer, ends: Mapping[TopicPartition, int]
) -> dict[TopicPartition, int]:
    """Return the positions of the partitions that are not read to their ends."""
    positions = {place: await consumer.position(place) for place in ends}
    return {place: position for place, position in positions.items() if position < ends[place]}


def _reason(consumer: AIOKafkaConsumer, short: Mapping[TopicPartition, int]) -> str:
    """Return why the first of the partitions comes no further."""
    place, position = next(iter(short.items()))
    return _stalled(place, position, OPEN if _is_held(consumer, place, position) else NO_ANSWER)


def _stalled(place: TopicPartition, offset: int, reason: str) -> str:
    return (
        f"cannot read partition {place.partition} of {place.topic} beyond offset {offset}: {reason}"
    )
