"""Messages of the topic, read with other libraries."""

import asyncpg
from cloudevents.core.bindings.kafka import KafkaMessage, from_structured_event

from service.described.asyncapi import asyncapi
from tests.support.relay.worker import Worker
from tests.support.service.api import Link, seed, serving
from tests.support.topic import topics
from tests.support.topic.events import event_of

TRACEPARENT = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"


async def test_each_message_is_a_cloudevent(database: str, kafka: str, topic: str) -> None:
    """Events of all four types follow the AsyncAPI document, and the CloudEvents library reads them."""
    connection = await asyncpg.connect(database)
    async with serving(database) as api:
        await seed(connection, 1, 1)
        headers = {"traceparent": TRACEPARENT}
        linked = await api.link("doc_1", Link("deal", "deal_1", "draft"), headers)
        link_id = linked.json()["data"]["link_id"]
        path = f"/v1/documents/doc_1/links/{link_id}"
        assert (await api.client.patch(path, json={"role": "signed"})).status_code == 200
        assert (await api.unlink("doc_1", link_id)).status_code == 200
        await api.link("doc_1", Link("deal", "deal_1"))
    await connection.close()
    with Worker(database, kafka, topic):
        records = await topics.wait_for_count(kafka, topic, 4)
    described = {
        message["name"]: message for message in asyncapi()["components"]["messages"].values()
    }
    seen = []
    for record in records:
        event = event_of(record.value)
        sent = dict(record.headers)
        read = from_structured_event(KafkaMessage(sent, record.key, record.value))
        assert (read.get_id(), read.get_type()) == (event["id"], event["type"])
        assert read.get_extension("partitionkey") == event["partitionkey"] == record.key.decode()
        assert read.get_data() == event["data"]
        message = described[event["type"]]
        assert sent["content-type"].decode() == message["contentType"]
        assert set(sent) <= set(message["headers"]["properties"])
        assert sent.get("traceparent", b"").decode() == event.get("traceparent", "")
        seen.append(event["type"])
    assert seen == [
        "document.linked", "document.link_updated", "document.unlinked", "document.restored",
    ]  # fmt: skip
