"""The topics: made where they are missing, checked where they are not, and their ends read."""

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from typing import Any, NamedTuple, Self, TypeVar

from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.admin import AIOKafkaAdminClient, NewTopic
from aiokafka.admin.config_resource import ConfigResource, ConfigResourceType
from aiokafka.errors import (
    ClusterAuthorizationFailedError,
    KafkaError,
    NoError,
    TopicAlreadyExistsError,
    TopicAuthorizationFailedError,
    UnknownTopicOrPartitionError,
    for_code,
)

T = TypeVar("T")
ADMIN_TIMEOUT_S = 15
BEHIND_S = 5
ASK_AGAIN_S = 0.05
READ_TIMEOUT_S = 15
FETCH_BYTES = 4 << 20
FETCH_RECORDS = 10_000
REPLICATION = 3
LEAST_IN_SYNC = "2"
# A topic from its beginning rebuilds the database, so nothing is ever dropped from it:
# compaction by the document's key would drop links.
FOR_EVER = {"retention.ms": "-1", "retention.bytes": "-1"}
EVENT_TOPIC = {"cleanup.policy": "delete", **FOR_EVER}
DEFAULT_BATCH_BYTES = 1_000_000  # Kafka's own default for max.message.bytes is 1,048,588
PROGRESS_TOPIC = {"cleanup.policy": "compact"}


def largest_batch(configs: Mapping[str, str]) -> int:
    """Return how many bytes a batch may have in a topic with these settings."""
    return int(configs.get("max.message.bytes", DEFAULT_BATCH_BYTES))


class Described(NamedTuple):
    """A topic's partitions, and the fewest replicas that one of them has."""

    partitions: int
    replicas: int


def kept(configs: Mapping[str, str]) -> dict[str, str]:
    """Return how long and how much a topic keeps; for ever where that is not to be seen."""
    return {name: configs.get(name, ours) for name, ours in FOR_EVER.items()}


class Topics:
    """Kafka's administration, over one connection."""

    def __init__(self, client: dict[str, Any]) -> None:
        self._client = client
        self._admin = AIOKafkaAdminClient(**client)

    async def exists(self, topic: str) -> bool:
        """Whether there is such a topic, as the controller knows it.

        A broker's own list may be behind, and asking it for a topic can make it.
        """
        error = await self._create(topic, 1, {}, validate_only=True)
        if error in {TopicAuthorizationFailedError, ClusterAuthorizationFailedError}:
            return topic in await self._admin.list_topics()
        return error is TopicAlreadyExistsError

    async def ensure(self, topic: str, partitions: int, configs: dict[str, str]) -> bool:
        """Make a topic unless it is there; return whether it was made."""
        error = await self._create(topic, partitions, configs)
        if error is NoError:
            return True
        if error is TopicAlreadyExistsError:
            return False
        if topic in await self._admin.list_topics():  # made beforehand, for want of a right to
            return False
        raise error(topic)

    async def described(self, topic: str) -> Described:
        """Return how a topic is laid out."""

        async def ask() -> tuple[int, dict[str, Any]]:
            (answer,) = await self._admin.describe_topics([topic])
            return answer["error_code"], answer

        error, topic_ = await _heard_of(ask)
        if error:
            raise for_code(error)(topic)
        replicas = [len(partition["replicas"]) for partition in topic_["partitions"]]
        return Described(len(replicas), min(replicas))

    async def partitions(self, topic: str) -> int:
        """Return how many partitions a topic has."""
        return (await self.described(topic)).partitions

    async def configs(self, topic: str) -> dict[str, str]:
        """Return the topic's settings; nothing without the right to see them."""
        resource = ConfigResource(ConfigResourceType.TOPIC, topic)

        async def ask() -> tuple[int, list[Any]]:
            (response,) = await self._admin.describe_configs([resource])
            ((error, _, _, _, entries),) = response.resources
            return error, entries

        error, entries = await _heard_of(ask)
        return {} if error else {name: value for name, value, *_ in entries}

    async def brokers(self) -> int:
        """Return how many brokers there are."""
        return len((await self._admin.describe_cluster())["brokers"])

    async def _create(
        self, topic: str, partitions: int, configs: dict[str, str], *, validate_only: bool = False
    ) -> type[KafkaError]:
        brokers = await self.brokers()
        if brokers >= REPLICATION:
            configs = configs | {"min.insync.replicas": LEAST_IN_SYNC}
        new = NewTopic(topic, partitions, min(REPLICATION, brokers), topic_configs=configs)
        response = await self._admin.create_topics([new], validate_only=validate_only)
        ((_, code, *_),) = response.topic_errors
        error: type[KafkaError] = for_code(code)
        return error

    async def __aenter__(self) -> Self:
        await self._admin.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._admin.close()


async def _heard_of(ask: Callable[[], Awaitable[tuple[int, T]]]) -> tuple[int, T]:
    """Return an error code and an answer, asked for again while the topic is unknown.

    The controller makes a topic before every broker has heard of it.
    """
    deadline = time.monotonic() + BEHIND_S
    while True:
        error, answer = await ask()
        if error != UnknownTopicOrPartitionError.errno or time.monotonic() > deadline:
            return error, answer
        await asyncio.sleep(ASK_AGAIN_S)


@asynccontextmanager
async def administration(client: dict[str, Any]) -> AsyncIterator[Topics]:
    """Yield the administration; TimeoutError where all of it takes too long."""
    try:
        async with asyncio.timeout(ADMIN_TIMEOUT_S), Topics(client) as topics:
            yield topics
    except AttributeError as error:  # aiokafka asks nobody where no controller is known
        message = "no controller is known"
        raise KafkaError(message) from error


@asynccontextmanager
async def _reader(client: dict[str, Any], isolation: str) -> AsyncIterator[AIOKafkaConsumer]:
    """Yield a consumer without a group, that raises where there is nothing to read."""
    async with asyncio.timeout(READ_TIMEOUT_S), _consumer(client, isolation) as consumer:
        yield consumer


def _consumer(client: dict[str, Any], isolation: str) -> AIOKafkaConsumer:
    return AIOKafkaConsumer(
        **client,
        isolation_level=isolation,
        auto_offset_reset="none",
        enable_auto_commit=False,
        max_partition_fetch_bytes=FETCH_BYTES,
    )


async def end_offsets(client: dict[str, Any], topic: str, partitions: int) -> dict[int, int]:
    """Return the offset after the last record of each partition."""
    async with _reader(client, "read_uncommitted") as consumer:
        places = [TopicPartition(topic, partition) for partition in range(partitions)]
        ends = await consumer.end_offsets(places)
    return {place.partition: offset for place, offset in ends.items()}


async def start_offsets(
    client: dict[str, Any], topic: str, end_of: Mapping[int, int], since_ms: int | None
) -> dict[int, int]:
    """Return the offset of each partition's first record with that time or a later one.

    The end where there is none; without a time the offset of the very first record.
    """
    ends = {TopicPartition(topic, partition): end for partition, end in end_of.items()}
    async with _reader(client, "read_uncommitted") as consumer:
        if since_ms is None:
            firsts: dict[TopicPartition, int] = await consumer.beginning_offsets(list(ends))
        else:
            found = await consumer.offsets_for_times(dict.fromkeys(ends, since_ms))
            firsts = {place: at.offset for place, at in found.items() if at is not None}
    return {place.partition: min(firsts.get(place, end), end) for place, end in ends.items()}


async def last_value(client: dict[str, Any], topic: str) -> bytes | None:
    """Return the value of the last committed record of a topic with one partition, None without.

    An error is an error, never "nothing there".
    """
    place = TopicPartition(topic, 0)
    async with _reader(client, "read_committed") as consumer:
        consumer.assign([place])
        first = (await consumer.beginning_offsets([place]))[place]
        end = (await consumer.end_offsets([place]))[place]
        # Transactions' markers and aborted records have offsets too: step back until one is found.
        step = 10
        while True:
            start = max(first, end - step)
            value = await _last_between(consumer, place, start, end)
            if value is not None or start == first:
                return value
            step *= 10


async def _last_between(
    consumer: AIOKafkaConsumer, place: TopicPartition, start: int, end: int
) -> bytes | None:
    """Return the last record's value from start on, once the consumer has come to end."""
    consumer.seek(place, start)
    value: bytes | None = None
    while await consumer.position(place) < end:
        for records in (await consumer.getmany(place, timeout_ms=200)).values():
            value = records[-1].value
    return value


async def between(
    client: dict[str, Any], topic: str, start_of: Mapping[int, int], end_of: Mapping[int, int]
) -> AsyncIterator[list[Any]]:
    """Yield the committed records from the start to the end of each partition; in order within each.

    The ends should be those of uncommitted records: for a moment after a commit its markers
    are still on their way, and committed records seem to end before it.
    """
    ends = {TopicPartition(topic, partition): end for partition, end in end_of.items()}
    places = list(ends)
    async with _consumer(client, "read_committed") as consumer:
        consumer.assign(places)
        for place in places:
            consumer.seek(place, start_of[place.partition])
        while [place for place in places if await consumer.position(place) < ends[place]]:
            async with asyncio.timeout(READ_TIMEOUT_S):
                fetched = await consumer.getmany(timeout_ms=200, max_records=FETCH_RECORDS)
            for place, records in fetched.items():
                yield [record for record in records if record.offset < ends[place]]
