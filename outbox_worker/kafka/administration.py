"""Kafka's administration: topics are made if they are missing, described and configured."""

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Any, Self, TypeVar

from aiokafka import TopicPartition
from aiokafka.admin import AIOKafkaAdminClient, NewTopic, RecordsToDelete
from aiokafka.admin.config_resource import ConfigResource, ConfigResourceType
from aiokafka.errors import (
    ClusterAuthorizationFailedError,
    InvalidConfigurationError,
    InvalidPartitionsError,
    InvalidReplicationAssignmentError,
    InvalidReplicationFactorError,
    InvalidRequestError,
    InvalidTopicError,
    KafkaError,
    NodeNotReadyError,
    NoError,
    PolicyViolationError,
    RequestTimedOutError,
    TopicAlreadyExistsError,
    TopicAuthorizationFailedError,
    UnknownTopicOrPartitionError,
    for_code,
)

from outbox_worker.kafka import metadata
from outbox_worker.kafka.connections import Client

T = TypeVar("T")
ADMIN_TIMEOUT_S = 15
BUSY_S = 8
"""The time for which a request to the controller is repeated while its answer is none of FINAL."""
BEHIND_S = 5
"""The time for which a broker is asked again for a topic that the controller may know already."""
ASK_AGAIN_S = 0.05
# Answers of a controller to a request to make a topic. It looks for the topic's name first, so each
# error of REFUSED shows that the topic does not exist. The other errors show nothing about it.
FORBIDDEN = {TopicAuthorizationFailedError, ClusterAuthorizationFailedError}
REFUSED = {
    InvalidConfigurationError,
    InvalidPartitionsError,
    InvalidReplicationAssignmentError,
    InvalidReplicationFactorError,
    InvalidRequestError,
    InvalidTopicError,
    PolicyViolationError,
}
FINAL = {NoError, TopicAlreadyExistsError} | FORBIDDEN | REFUSED
# Answers to a request for configuration: without the right to read it, the worker uses defaults.
CONFIGS_ANSWERED = {NoError} | FORBIDDEN
REPLICATION = 3
DEFAULT_REPLICATION = "default.replication.factor"
LEAST_IN_SYNC = "2"
# The event topic from its beginning rebuilds the database, so brokers must not delete events from it.
# Compaction would keep only the last event of each document, which tells of one link.
UNLIMITED = {"retention.ms": "-1", "retention.bytes": "-1"}
EVENT_TOPIC = {"cleanup.policy": "delete", **UNLIMITED}
DEFAULT_BATCH_BYTES = 1_000_000  # Kafka's own default for max.message.bytes is 1,048,588
PROGRESS_TOPIC = {"cleanup.policy": "compact"}


def max_batch_bytes(configs: Mapping[str, str]) -> int:
    """Return the size of the largest batch that a topic with this configuration accepts."""
    return int(configs.get("max.message.bytes", DEFAULT_BATCH_BYTES))


def retention(configs: Mapping[str, str]) -> dict[str, str]:
    """Return a topic's limits of retention; unlimited if the worker may not read them."""
    return {name: configs.get(name, unlimited) for name, unlimited in UNLIMITED.items()}


def existence_from(error: type[KafkaError]) -> bool | None:
    """Return whether a topic exists, given the answer to a request to make it; None: it does not tell."""
    if error is TopicAlreadyExistsError:
        return True
    return False if error is NoError or error in REFUSED else None


class Administration:
    """An administration client; a context manager."""

    def __init__(self, client: dict[str, Any]) -> None:
        self._admin = AIOKafkaAdminClient(**client)

    @property
    def client(self) -> Client:
        """The client's connections, for requests that aiokafka's administration lacks."""
        client: Client = self._admin._client  # noqa: SLF001 - aiokafka has no call for it
        return client

    async def exists(self, topic: str) -> bool:
        """Return whether the controller knows the topic; the metadata of a broker may be older.

        Raises:
            KafkaError: neither the controller nor a broker can tell.
        """
        exists = existence_from(await self._create(topic, 1, 1, {}, validate_only=True))
        if exists is not None:
            return exists
        described = await self._described_by_broker(topic)
        if described.error not in {NoError, UnknownTopicOrPartitionError}:
            raise described.error(topic)
        return described.exists

    async def ensure(self, topic: str, partitions: int, configs: dict[str, str]) -> int | None:
        """Make a topic unless it exists; return its number of replicas if it was made, else None.

        A topic gets three replicas, or more if brokers are configured with more, and fewer if there
        are fewer brokers.
        """
        most = max(REPLICATION, await self.configured_replication())
        error: type[KafkaError] = InvalidReplicationFactorError
        for replicas in range(most, 0, -1):
            in_sync = {"min.insync.replicas": LEAST_IN_SYNC} if replicas >= REPLICATION else {}
            error = await self._create(topic, partitions, replicas, configs | in_sync)
            if error is NoError:
                return replicas
            if error is not InvalidReplicationFactorError:
                break
        if error is TopicAlreadyExistsError or (await self._described_by_broker(topic)).exists:
            return None  # made by an operator, because the worker has no right to make it
        raise error(topic)

    async def described(self, topic: str) -> metadata.Topic:
        """Return a topic's partitions, id and rights; raise the broker's error if it does not exist."""
        described = await self._described_by_broker(topic)
        if not described.exists:
            raise described.error(topic)
        return described

    async def partitions(self, topic: str) -> int:
        """Return the number of a topic's partitions."""
        return len((await self.described(topic)).partitions)

    async def describe(self, topics: Sequence[str]) -> list[metadata.Topic]:
        """Return the topics as one broker knows them now, also those that it does not know."""
        return await metadata.topics(self.client, topics)

    async def configs(self, topic: str) -> dict[str, str]:
        """Return the topic's configuration; empty without the right to read it."""
        return await self._configs(ConfigResource(ConfigResourceType.TOPIC, topic))

    async def configured_replication(self) -> int:
        """Return the brokers' default number of replicas; 1 without the right to read it."""
        (node, *_) = await self._nodes()
        broker = ConfigResource(ConfigResourceType.BROKER, str(node), {DEFAULT_REPLICATION: None})
        return int((await self._configs(broker)).get(DEFAULT_REPLICATION, 1))

    async def delete_records(self, topic: str, end_of: Mapping[int, int]) -> None:
        """Delete the records of each partition up to its offset, which is not included."""
        ends = {
            TopicPartition(topic, partition): RecordsToDelete(end)
            for partition, end in end_of.items()
        }
        await self._admin.delete_records(ends)

    async def brokers(self) -> int:
        """Return the number of running brokers."""
        return len(await self._nodes())

    def hosts(self) -> set[str]:
        """Return the hosts of the brokers to which clients connect."""
        return {broker.host for broker in self.client.cluster.brokers()}

    async def _nodes(self) -> list[int]:
        return [broker["node_id"] for broker in (await self._admin.describe_cluster())["brokers"]]

    async def _configs(self, resource: ConfigResource) -> dict[str, str]:
        async def ask() -> tuple[type[KafkaError], tuple[str, list[Any]]]:
            (response,) = await self._admin.describe_configs([resource])
            ((code, message, _, _, entries),) = response.resources
            return for_code(code), (message, entries)

        error, (message, entries) = await _ask_until(
            ask, lambda error: error not in CONFIGS_ANSWERED, BEHIND_S
        )
        if error not in CONFIGS_ANSWERED:
            raise error(f"{resource.name}: {message}")
        return {name: value for name, value, *_ in entries}

    async def _described_by_broker(self, topic: str) -> metadata.Topic:
        """Return a topic as a broker knows it; ask again if it does not know the topic yet."""

        async def ask() -> tuple[type[KafkaError], metadata.Topic]:
            (described,) = await self.describe([topic])
            return described.error, described

        return (await _ask_until(ask, _is_unknown, BEHIND_S))[1]

    async def _create(
        self,
        topic: str,
        partitions: int,
        replicas: int,
        configs: dict[str, str],
        *,
        validate_only: bool = False,
    ) -> type[KafkaError]:
        """Return the controller's answer if it is one of FINAL; raise any other error."""

        async def ask() -> tuple[type[KafkaError], str]:
            await self._require_controller()
            new = NewTopic(topic, partitions, replicas, topic_configs=configs)
            response = await self._admin.create_topics([new], validate_only=validate_only)
            ((_, code, message, *_),) = response.topic_errors
            error: type[KafkaError] = for_code(code)
            if error not in FINAL:  # the controller may have changed
                await self.client.force_metadata_update()
            return error, message

        error, message = await _ask_until(ask, lambda error: error not in FINAL, BUSY_S)
        if error not in FINAL:
            raise error(f"{topic}: {message}")
        return error

    async def _require_controller(self) -> None:
        """Raise KafkaError if no controller is known; aiokafka would raise AttributeError."""
        if self.client.cluster.controller is None:
            await self.client.force_metadata_update()
        if self.client.cluster.controller is None:
            message = "no controller is known; check the brokers"
            raise KafkaError(message)

    async def __aenter__(self) -> Self:
        await self._admin.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._admin.close()


def _is_unknown(error: type[KafkaError]) -> bool:
    """Whether a broker does not know a topic; it learns of a new topic later than the controller."""
    return error is UnknownTopicOrPartitionError


async def _ask_until(
    ask: Callable[[], Awaitable[tuple[type[KafkaError], T]]],
    again: Callable[[type[KafkaError]], bool],
    seconds: float,
) -> tuple[type[KafkaError], T]:
    """Return an error and an answer; repeat the request while `again` is true of the error."""
    deadline = time.monotonic() + seconds
    while True:
        error, answer = await ask()
        if not again(error) or time.monotonic() > deadline:
            return error, answer
        await asyncio.sleep(ASK_AGAIN_S)


@asynccontextmanager
async def connect(client: dict[str, Any]) -> AsyncIterator[Administration]:
    """Yield an administration client; TimeoutError if its use takes longer than ADMIN_TIMEOUT_S."""
    admin = Administration(client)
    try:
        async with asyncio.timeout(ADMIN_TIMEOUT_S), admin:
            yield admin
    except (NodeNotReadyError, RequestTimedOutError, TimeoutError) as error:
        raise await admin.client.unreachable_brokers() or error from error
