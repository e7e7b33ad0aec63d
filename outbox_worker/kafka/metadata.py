"""Metadata of topics that aiokafka does not read: topic ids, replicas and the rights of the caller.

A topic that was deleted and made again has its old name and another id (KIP-516). aiokafka requests
version 5 of the metadata. Ids come with version 10, which brokers support since 2.8; with an older
broker the ids and the rights are unknown.
"""

import random
from collections.abc import Sequence
from io import BytesIO
from typing import Any, NamedTuple
from uuid import UUID

from aiokafka.errors import (
    KafkaConnectionError,
    KafkaError,
    LeaderNotAvailableError,
    NoError,
    TopicAuthorizationFailedError,
    for_code,
)
from aiokafka.protocol.api import Request, RequestStruct, Response
from aiokafka.protocol.metadata import MetadataRequest
from aiokafka.protocol.types import (
    AbstractType,
    Boolean,
    CompactArray,
    CompactString,
    Int16,
    Int32,
    Schema,
    TaggedFields,
)

from outbox_worker.kafka.connections import Client

API_KEY = 3
API_VERSION = 10
# Bits of the operations that the caller is authorised for (AclOperation.java).
READ, WRITE, DESCRIBE = 1 << 3, 1 << 4, 1 << 8
UNKNOWN_OPERATIONS = -(2**31)
NO_ID = UUID(int=0)
TEXT = CompactString("utf-8")


class Uuid(AbstractType):  # type: ignore[misc] # aiokafka has no types
    """A UUID in sixteen bytes."""

    @classmethod
    def encode(cls, value: UUID) -> bytes:
        """Return the bytes."""
        return value.bytes

    @classmethod
    def decode(cls, data: BytesIO) -> UUID:
        """Return the UUID in the next bytes."""
        return UUID(bytes=data.read(16))


class DetailedResponse(Response):  # type: ignore[misc] # aiokafka has no types
    """Version 10 of the response in Kafka's MetadataResponse.json."""

    API_KEY = API_KEY
    API_VERSION = API_VERSION
    SCHEMA = Schema(
        ("throttle_time_ms", Int32),
        (
            "brokers",
            CompactArray(
                ("node_id", Int32),
                ("host", TEXT),
                ("port", Int32),
                ("rack", TEXT),
                ("tags", TaggedFields),
            ),
        ),
        ("cluster_id", TEXT),
        ("controller_id", Int32),
        (
            "topics",
            CompactArray(
                ("error_code", Int16),
                ("name", TEXT),
                ("topic_id", Uuid),
                ("is_internal", Boolean),
                (
                    "partitions",
                    CompactArray(
                        ("error_code", Int16),
                        ("partition", Int32),
                        ("leader", Int32),
                        ("leader_epoch", Int32),
                        ("replicas", CompactArray(Int32)),
                        ("isr", CompactArray(Int32)),
                        ("offline", CompactArray(Int32)),
                        ("tags", TaggedFields),
                    ),
                ),
                ("operations", Int32),
                ("tags", TaggedFields),
            ),
        ),
        ("cluster_operations", Int32),
        ("tags", TaggedFields),
    )


class DetailedStruct(RequestStruct):  # type: ignore[misc] # aiokafka has no types
    """Version 10 of the request in Kafka's MetadataRequest.json."""

    FLEXIBLE_VERSION = True
    API_KEY = API_KEY
    API_VERSION = API_VERSION
    RESPONSE_TYPE = DetailedResponse
    SCHEMA = Schema(
        ("topics", CompactArray(("id", Uuid), ("name", TEXT), ("tags", TaggedFields))),
        ("allow_auto_topic_creation", Boolean),
        ("include_cluster_operations", Boolean),
        ("include_topic_operations", Boolean),
        ("tags", TaggedFields),
    )


class DetailedRequest(Request[DetailedStruct]):  # type: ignore[misc] # aiokafka has no types
    """Requests topics by name, and does not make a missing one."""

    API_KEY = API_KEY

    def __init__(self, topics: Sequence[str]) -> None:
        self._topics = topics

    def build(self, struct: type[DetailedStruct]) -> DetailedStruct:
        """Return the request as it is sent."""
        named: list[Any] = [(NO_ID, topic, {}) for topic in self._topics]
        return struct(named, False, False, True, {})  # noqa: FBT003 - positional in aiokafka


class Partition(NamedTuple):
    """One partition: its number, its leader (-1: none), its replicas and those in sync."""

    number: int
    leader: int
    replicas: int
    in_sync: int


class Topic(NamedTuple):
    """A topic as one broker knows it; `error` is NoError if the broker knows the topic.

    `operations` has a bit for each right of the caller. An old broker tells neither the id nor the
    operations: they are None.
    """

    name: str
    error: type[KafkaError]
    id: str | None
    partitions: list[Partition]
    operations: int | None

    @property
    def exists(self) -> bool:
        """Whether the broker knows the topic."""
        return self.error is NoError

    def may(self, operation: int) -> bool:
        """Whether the caller has a right; true if the broker does not tell."""
        return self.operations is None or bool(self.operations & operation)


def check_usable(topic: Topic) -> None:
    """Raise the error that a leader would get when it publishes to a topic."""
    if not topic.exists:
        raise topic.error(topic.name)
    if leaderless := [each.number for each in topic.partitions if each.leader < 0]:
        message = (
            f"topic {topic.name} has partitions without a leader: {leaderless}; "
            "start the brokers that hold them"
        )
        raise LeaderNotAvailableError(message)
    if not (topic.may(READ) and topic.may(WRITE)):
        message = f"Read or Write on topic {topic.name} is not granted; grant both"
        raise TopicAuthorizationFailedError(message)


async def topics(client: Client, names: Sequence[str]) -> list[Topic]:
    """Return the topics as known by the first broker, in random order, that answers."""
    nodes = [broker.nodeId for broker in client.cluster.brokers()]
    random.shuffle(nodes)
    failed: Exception = KafkaConnectionError("no broker is known")
    for node in nodes:
        try:
            return await _topics_of(client, names, node)
        except (KafkaError, OSError, TimeoutError) as error:
            failed = error
    raise await client.unreachable_brokers() or failed from failed


async def _topics_of(client: Client, names: Sequence[str], node: int) -> list[Topic]:
    try:
        try:
            response = await client.send(node, DetailedRequest(names))
        except KafkaConnectionError:  # the connection was closed: send() opens another one
            response = await client.send(node, DetailedRequest(names))
    except NotImplementedError:  # aiokafka raises it if the broker does not support the version
        response = await client.send(node, MetadataRequest(list(names), False))  # noqa: FBT003
    return [_topic(topic) for topic in response.to_object()["topics"]]


def _topic(described: dict[str, Any]) -> Topic:
    """Return a topic from a response of either version."""
    identity = described.get("topic_id", NO_ID)
    operations = described.get("operations", UNKNOWN_OPERATIONS)
    return Topic(
        described.get("name") or described.get("topic", ""),
        for_code(described["error_code"]),
        None if identity == NO_ID else str(identity),
        [
            Partition(each["partition"], each["leader"], len(each["replicas"]), len(each["isr"]))
            for each in described["partitions"]
        ],
        None if operations == UNKNOWN_OPERATIONS else operations,
    )
