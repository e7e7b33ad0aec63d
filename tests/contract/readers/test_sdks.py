"""Events and snapshots, read by the CloudEvents SDKs of Python and Java and by networknt's validator."""

import asyncio
import json
from typing import Any

import pytest
from aiokafka import AIOKafkaProducer
from cloudevents.core.bindings.kafka import KafkaMessage, from_structured_event

from tests.contract.readers.conftest import Published
from tests.contract.readers.java_client import JavaReader
from tests.support.topic import topics

EVENTS = {"document.linked", "document.link_updated", "document.unlinked", "document.restored"}
SNAPSHOT = {"snapshot.began", "document.linked", "snapshot.ended"}
NAMES = ("id", "type", "source", "subject", "partitionkey")

pytestmark = [
    pytest.mark.timeout(300),
    pytest.mark.parametrize("published", ["none"], indirect=True),
]


async def test_each_event_is_read_and_valid(published: Published, java_reader: JavaReader) -> None:
    """Both SDKs find the attributes and the data that the value has, and the validator finds no error."""
    records = await read(java_reader, published.kafka, published.topic)
    assert {check(record) for record in records} == EVENTS
    assert len(records) == len(published.records)


async def test_a_snapshot_is_read_and_valid(published: Published, java_reader: JavaReader) -> None:
    """The same holds for the markers and for the events between them."""
    assert published.worker.command("snapshot", "--yes") == 0, published.worker.output()
    records = await read(java_reader, published.kafka, f"{published.topic}.snapshot")
    assert {check(record) for record in records} == SNAPSHOT


async def test_the_validator_finds_an_error(published: Published, java_reader: JavaReader) -> None:
    """An event whose sequence has not 20 digits is a CloudEvent, but invalid."""
    event = json.loads(published.records[0]["value"]) | {"sequence": "1"}
    wrong = f"{published.topic}.wrong"
    await topics.make(published.kafka, wrong, 1, {})
    async with AIOKafkaProducer(bootstrap_servers=published.kafka) as producer:
        headers = [("content-type", b"application/cloudevents+json; charset=utf-8")]
        await producer.send_and_wait(wrong, json.dumps(event).encode(), b"key", 0, headers=headers)
    (record,) = await read(java_reader, published.kafka, wrong)
    assert "sequence" in record["errors"]


async def read(java_reader: JavaReader, kafka: str, topic: str) -> list[dict[str, Any]]:
    """Return all records of a topic as the Java program reads them."""
    count = len(await topics.read_all(kafka, topic))
    return await asyncio.to_thread(java_reader.read, kafka, "group", topic, f"{topic}-sdk", count)


def check(record: dict[str, Any]) -> str:
    """Compare what the SDKs find with the value; return the type."""
    event, java = json.loads(record["value"]), record["event"]
    headers = {name: value.encode() for name, value in record["headers"].items()}
    python = from_structured_event(
        KafkaMessage(headers, record["key"].encode(), record["value"].encode())
    )
    found = {
        "id": python.get_id(),
        "type": python.get_type(),
        "source": python.get_source(),
        "subject": python.get_subject(),
        "partitionkey": python.get_extension("partitionkey"),
    }
    assert found == {name: java[name] for name in NAMES} == {name: event[name] for name in NAMES}
    assert python.get_data() == json.loads(java["data"]) == event["data"]
    assert record["errors"] == "[]"
    kind: str = event["type"]
    return kind
