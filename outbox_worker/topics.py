"""The topics: made where they are missing, and described where they are not."""

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from typing import Any, NamedTuple, Self, TypeVar

from aiokafka import TopicPartition
from aiokafka.admin import AIOKafkaAdminClient, NewTopic, RecordsToDelete
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

    async def delete_records(self, topic: str, end_of: Mapping[int, int]) -> None:
        """Delete the records of each partition that lie before its offset."""
        ends = {
            TopicPartition(topic, partition): RecordsToDelete(end)
            for partition, end in end_of.items()
        }
        await self._admin.delete_records(ends)

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
