"""The codecs of a topic's record batches, which consumers do not tell."""

import struct

from aiokafka import TopicPartition
from aiokafka.client import AIOKafkaClient
from aiokafka.protocol.fetch import FetchRequest

NAMES = ("none", "gzip", "snappy", "lz4", "zstd")
MOST_BYTES = 64 << 20
CONTROL = 0x20
_LENGTH = struct.Struct(">i")
_ATTRIBUTES = struct.Struct(">h")
_LENGTH_AT, _ATTRIBUTES_AT, _AFTER_LENGTH = 8, 21, 12


async def codecs(kafka: str, topic: str) -> list[str]:
    """Return the codec of each batch of records in the topic, without the markers of transactions."""
    client = AIOKafkaClient(bootstrap_servers=kafka)
    await client.bootstrap()
    try:
        client.set_topics([topic])
        await client.force_metadata_update()
        partitions = client.cluster.partitions_for_topic(topic) or set()
        found: list[str] = []
        for partition in sorted(partitions):
            node = client.cluster.leader_for_partition(TopicPartition(topic, partition))
            asked = [(topic, [(partition, 0, MOST_BYTES)])]
            request = FetchRequest(0, 0, MOST_BYTES, 0, asked)
            response = await client.send(node, request)
            ((_, (answered,)),) = response.topics
            found += _codecs_in(answered[-1])
        return found
    finally:
        await client.close()


def _codecs_in(records: bytes) -> list[str]:
    """Return the codecs of the batches that begin in the bytes of a fetch response."""
    found, at = [], 0
    while at + _ATTRIBUTES_AT + 2 <= len(records):
        (attributes,) = _ATTRIBUTES.unpack_from(records, at + _ATTRIBUTES_AT)
        if not attributes & CONTROL:
            found.append(NAMES[attributes & 7])
        at += _AFTER_LENGTH + _LENGTH.unpack_from(records, at + _LENGTH_AT)[0]
    return found
