"""A topic as a subscriber sees it: read to its end, applied in order, checked for gaps."""

import asyncio
import json
from collections.abc import Sequence
from typing import Any

from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.admin import AIOKafkaAdminClient, NewPartitions, NewTopic
from aiokafka.admin.config_resource import ConfigResource, ConfigResourceType

from tests.waiting import until

READ_TIMEOUT_S = 60
Record = Any  # aiokafka's ConsumerRecord, which has no types


async def places_of(kafka: str, topic: str) -> list[TopicPartition]:
    """Return the partitions of a topic; none where it is not there."""
    admin = AIOKafkaAdminClient(bootstrap_servers=kafka)
    await admin.start()
    try:
        (described,) = await admin.describe_topics([topic])
    finally:
        await admin.close()
    return [TopicPartition(topic, each["partition"]) for each in described["partitions"]]


async def leader(kafka: str, topic: str) -> int:
    """Return the broker that leads the topic's first partition."""
    admin = AIOKafkaAdminClient(bootstrap_servers=kafka)
    await admin.start()
    try:
        (described,) = await admin.describe_topics([topic])
    finally:
        await admin.close()
    node: int = described["partitions"][0]["leader"]
    return node


async def read_all(kafka: str, topic: str, isolation: str = "read_committed") -> list[Record]:
    """Return every record that the topic holds now, partition after partition."""
    if not (places := await places_of(kafka, topic)):
        return []
    consumer = AIOKafkaConsumer(
        bootstrap_servers=kafka, isolation_level=isolation, auto_offset_reset="earliest"
    )
    records: list[Record] = []
    async with asyncio.timeout(READ_TIMEOUT_S), consumer:
        consumer.assign(places)
        ends = await consumer.end_offsets(places)
        while [place for place in places if await consumer.position(place) < ends[place]]:
            for place, batch in (await consumer.getmany(timeout_ms=200)).items():
                records += [record for record in batch if record.offset < ends[place]]
    return sorted(records, key=lambda record: (record.partition, record.offset))


async def make(kafka: str, topic: str, partitions: int, configs: dict[str, str]) -> None:
    """Make a topic, as an operator does."""
    admin = AIOKafkaAdminClient(bootstrap_servers=kafka)
    await admin.start()
    try:
        await admin.create_topics([NewTopic(topic, partitions, 1, topic_configs=configs)])
    finally:
        await admin.close()


async def grow(kafka: str, topic: str, partitions: int) -> None:
    """Give a topic so many partitions, as an operator does."""
    admin = AIOKafkaAdminClient(bootstrap_servers=kafka)
    await admin.start()
    try:
        await admin.create_partitions({topic: NewPartitions(partitions)})
    finally:
        await admin.close()


async def configure(kafka: str, topic: str, configs: dict[str, str]) -> None:
    """Set a topic's configuration, as an operator does."""
    admin = AIOKafkaAdminClient(bootstrap_servers=kafka)
    await admin.start()
    try:
        await admin.alter_configs([ConfigResource(ConfigResourceType.TOPIC, topic, configs)])
    finally:
        await admin.close()


async def payloads(kafka: str, topic: str) -> list[bytes]:
    """Return the values of all committed records."""
    return [record.value for record in await read_all(kafka, topic)]


async def wait_for_count(kafka: str, topic: str, count: int, timeout_s: float = 60) -> list[Record]:
    """Return the committed records as soon as there are so many."""

    async def enough() -> list[Record]:
        records = await read_all(kafka, topic)
        return records if len(records) >= count else []

    return await until(enough, timeout_s) if count else []


def first_of_each(records: Sequence[Record]) -> list[Record]:
    """Return the records without those whose version a subscriber has seen before."""
    versions: dict[str, int] = {}
    fresh = []
    for record in records:
        event = json.loads(record.value)
        if event["version"] > versions.get(event["subject"], 0):
            versions[event["subject"]] = event["version"]
            fresh.append(record)
    return fresh


def fold(records: Sequence[Record]) -> tuple[set[str], list[str]]:
    """Apply events in order: the active links, and every version that does not follow its last."""
    active: set[str] = set()
    versions: dict[str, int] = {}
    faults = []
    for record in records:
        event = json.loads(record.value)
        document, version = event["subject"], event["version"]
        if version != versions.get(document, 0) + 1:
            faults.append(f"{document}: {version} after {versions.get(document, 0)}")
        versions[document] = version
        if event["type"] == "document.unlinked":
            active.discard(event["link"])
        else:
            active.add(event["link"])
    return active, faults
