"""librdkafka, the C client on which those of many languages build, through confluent-kafka."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from confluent_kafka import Consumer, KafkaError, TopicPartition

POLL_S = 0.5
TIMEOUT_S = 60


@contextmanager
def _consumer(kafka: str, group: str) -> Iterator[Any]:
    settings = {
        "bootstrap.servers": kafka,
        "group.id": group,
        "isolation.level": "read_committed",
        "auto.offset.reset": "earliest",
        "enable.auto.commit": False,
        "enable.partition.eof": True,
    }
    consumer = Consumer(settings)
    try:
        yield consumer
    finally:
        consumer.close()


def _messages(consumer: Any) -> Iterator[Any]:  # noqa: ANN401 - an extension class
    """Yield messages, and for the end of a partition None."""
    deadline = time.monotonic() + TIMEOUT_S
    while time.monotonic() < deadline:
        message = consumer.poll(POLL_S)
        if message is None:
            continue
        error = message.error()
        assert error is None or error.code() == KafkaError._PARTITION_EOF, error  # noqa: SLF001 - its public name
        yield message if error is None else None
    raise TimeoutError


def _record(message: Any) -> dict[str, Any]:  # noqa: ANN401 - an extension class
    headers = {name: value.decode() for name, value in message.headers() or []}
    return {
        "partition": message.partition(),
        "offset": message.offset(),
        "key": message.key().decode(),
        "value": message.value().decode(),
        "headers": headers,
    }


def group(kafka: str, topic: str, name: str, count: int) -> list[dict[str, Any]]:
    """Read as a member of a group, from its last commit on, until there are `count` records; commit them."""
    with _consumer(kafka, name) as consumer:
        consumer.subscribe([topic])
        records: list[dict[str, Any]] = []
        for message in _messages(consumer):
            if message is not None:
                records.append(_record(message))
                consumer.commit(message, asynchronous=False)
            if len(records) == count:
                break
        return records


def seek(kafka: str, topic: str, partition: int, offset: int) -> list[dict[str, Any]]:
    """Read one partition from an offset to its end."""
    with _consumer(kafka, f"{topic}-seek") as consumer:
        consumer.assign([TopicPartition(topic, partition, 0)])
        assert next(_messages(consumer)) is not None
        consumer.seek(TopicPartition(topic, partition, offset))
        records: list[dict[str, Any]] = []
        for message in _messages(consumer):
            if message is None:
                return records
            records.append(_record(message))
    return records
