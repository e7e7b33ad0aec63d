"""Topics: made, changed and deleted as an operator does it, and read as a subscriber does."""

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Any

from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.admin import AIOKafkaAdminClient, NewPartitions, NewTopic
from aiokafka.admin.config_resource import ConfigResource, ConfigResourceType
from aiokafka.protocol.admin import AlterPartitionReassignmentsRequest
from aiokafka.protocol.metadata import MetadataRequest

from tests.support.waiting import until

READ_TIMEOUT_S = 60
POLL_MS = 200
Record = Any  # aiokafka's ConsumerRecord, which has no types


@asynccontextmanager
async def administration(kafka: str) -> AsyncIterator[AIOKafkaAdminClient]:
    """Yield an admin client."""
    admin = AIOKafkaAdminClient(bootstrap_servers=kafka)
    await admin.start()
    try:
        yield admin
    finally:
        await admin.close()


async def _partitions(
    admin: AIOKafkaAdminClient, topic: str, broker: int | None = None
) -> list[dict[str, Any]]:
    """Return the partitions that one broker knows of a topic. Without `broker` any broker answers."""
    answer = await admin._send_request(MetadataRequest([topic]), broker)  # noqa: SLF001 - the client has no call for it
    (described,) = answer.to_object()["topics"]
    partitions: list[dict[str, Any]] = described["partitions"]
    return sorted(partitions, key=lambda partition: int(partition["partition"]))


async def _until_everywhere(
    admin: AIOKafkaAdminClient, topic: str, holds: Callable[[list[dict[str, Any]]], bool]
) -> None:
    """Return when `holds` is true of the topic's partitions as each broker knows them.

    Each broker learns of a change on its own, later than the controller. The next client that connects
    asks any of them.
    """
    brokers = [broker["node_id"] for broker in (await admin.describe_cluster())["brokers"]]
    for broker in brokers:

        async def there(broker: int = broker) -> bool:
            return holds(await _partitions(admin, topic, broker))

        await until(there)


async def places_of(kafka: str, topic: str) -> list[TopicPartition]:
    """Return the partitions of a topic; none if it does not exist."""
    async with administration(kafka) as admin:
        partitions = await _partitions(admin, topic)
    return [TopicPartition(topic, each["partition"]) for each in partitions]


async def leader(kafka: str, topic: str) -> int:
    """Return the broker that leads the topic's first partition."""
    async with administration(kafka) as admin:
        await _until_everywhere(admin, topic, _led)
        node: int = (await _partitions(admin, topic))[0]["leader"]
    return node


def _led(partitions: list[dict[str, Any]]) -> bool:
    """Whether a topic exists and each of its partitions has a leader."""
    return bool(partitions) and all(partition["leader"] >= 0 for partition in partitions)


@asynccontextmanager
async def following(kafka: str, topic: str) -> AsyncIterator[AIOKafkaConsumer]:
    """Yield a consumer of the records that are committed from now on."""
    async with _reading(kafka, await places_of(kafka, topic)) as consumer:
        await consumer.seek_to_end()
        yield consumer


@asynccontextmanager
async def _reading(
    kafka: str, places: Sequence[TopicPartition], isolation: str = "read_committed"
) -> AsyncIterator[AIOKafkaConsumer]:
    """Yield a consumer at the beginning of each partition."""
    consumer = AIOKafkaConsumer(
        bootstrap_servers=kafka, isolation_level=isolation, auto_offset_reset="earliest"
    )
    async with consumer:
        consumer.assign(places)
        yield consumer


async def read_all(kafka: str, topic: str, isolation: str = "read_committed") -> list[Record]:
    """Return every record that the topic holds now, partition after partition."""
    if not (places := await places_of(kafka, topic)):
        return []
    records: list[Record] = []
    async with (
        asyncio.timeout(READ_TIMEOUT_S),
        _reading(kafka, places, isolation) as consumer,
    ):
        ends = await consumer.end_offsets(places)
        while [place for place in places if await consumer.position(place) < ends[place]]:
            for place, batch in (await consumer.getmany(timeout_ms=POLL_MS)).items():
                records += [record for record in batch if record.offset < ends[place]]
    return sorted(records, key=lambda record: (record.partition, record.offset))


async def read_until(
    kafka: str, topic: str, complete: Callable[[list[Record]], bool]
) -> list[Record]:
    """Return every committed record once `complete`, which gets each batch, has returned True.

    TimeoutError: no record has come for TIMEOUT_S. The time for all of them has no limit, because
    the writers of a test write more while the machine is slow.
    """
    places = await until(lambda: places_of(kafka, topic))
    async with _reading(kafka, places) as consumer:
        batch: list[Record] = []
        while not complete(batch):
            found = await until(lambda: consumer.getmany(timeout_ms=POLL_MS))
            batch = [record for records in found.values() for record in records]
    return await read_all(kafka, topic)


async def make(kafka: str, topic: str, partitions: int, configs: dict[str, str]) -> None:
    """Make a topic; return when every broker knows a leader of each partition.

    Brokers refuse the name until an earlier topic of this name is deleted on all of them.
    """
    async with administration(kafka) as admin:

        async def made() -> bool:
            await admin.create_topics([NewTopic(topic, partitions, 1, topic_configs=configs)])
            return len(await _partitions(admin, topic)) == partitions

        await until(made)
        await _until_everywhere(admin, topic, _led)


async def grow(kafka: str, topic: str, partitions: int) -> None:
    """Add partitions to a topic, up to so many; return when every broker knows them."""
    async with administration(kafka) as admin:
        await admin.create_partitions({topic: NewPartitions(partitions)})
        await _until_everywhere(admin, topic, lambda known: len(known) == partitions)


async def move(kafka: str, topic: str, replicas: Sequence[int]) -> None:
    """Move the topic's first partition to other brokers; return when all brokers know that one leads it."""
    async with administration(kafka) as admin:
        moves: Any = [(topic, [(0, list(replicas), {})], {})]
        request = AlterPartitionReassignmentsRequest(30_000, moves, {})
        await admin._send_to_controller(request)  # noqa: SLF001 - the client has no call for it

        def moved(partitions: list[dict[str, Any]]) -> bool:
            partition = partitions[0]
            there = sorted(partition["replicas"]) == sorted(partition["isr"]) == sorted(replicas)
            return there and partition["leader"] in replicas

        await _until_everywhere(admin, topic, moved)


async def delete(kafka: str, topic: str) -> None:
    """Delete a topic; return when no broker knows it any more."""
    async with administration(kafka) as admin:
        await admin.delete_topics([topic])
        await _until_everywhere(admin, topic, lambda known: not known)


async def configure(kafka: str, topic: str, configs: dict[str, str]) -> None:
    """Set a topic's configuration; return when the broker has it."""
    async with administration(kafka) as admin:
        await admin.alter_configs([ConfigResource(ConfigResourceType.TOPIC, topic, configs)])

        async def taken() -> bool:
            asked = ConfigResource(ConfigResourceType.TOPIC, topic)
            (answer,) = await admin.describe_configs([asked])
            ((*_, entries),) = answer.resources
            return configs.items() <= {name: value for name, value, *_ in entries}.items()

        await until(taken)


async def ends(kafka: str, topic: str, isolation: str = "read_uncommitted") -> dict[int, int]:
    """Return the end offset of each partition for a reader with this isolation level."""
    places = await places_of(kafka, topic)
    async with AIOKafkaConsumer(bootstrap_servers=kafka, isolation_level=isolation) as consumer:
        found = await consumer.end_offsets(places)
    return {place.partition: end for place, end in found.items()}


async def no_transaction_open(kafka: str, topic: str) -> bool:
    """Whether a reader of committed records can read to the end of each partition."""
    return await ends(kafka, topic, "read_committed") == await ends(kafka, topic)


async def payloads(kafka: str, topic: str) -> list[bytes]:
    """Return the values of all committed records."""
    return [record.value for record in await read_all(kafka, topic)]


async def wait_for_count(kafka: str, topic: str, count: int, timeout_s: float = 60) -> list[Record]:
    """Return the committed records as soon as there are so many."""

    async def enough() -> list[Record]:
        records = await read_all(kafka, topic)
        return records if len(records) >= count else []

    return await until(enough, timeout_s) if count else []
