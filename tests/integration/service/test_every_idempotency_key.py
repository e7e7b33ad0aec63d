"""Idempotency-Key on each call that changes something."""

import asyncio
from typing import NamedTuple

import asyncpg
import httpx
import pytest

from tests.support.service.api import Api, Link
from tests.support.service.rows import everything
from tests.support.topic.subscriber import check_outbox


class Call(NamedTuple):
    """A call that changes something, and another body or query for the same method and path."""

    method: str
    path: str
    body: dict[str, object] | None
    other: dict[str, object] | None = None
    query: str = ""
    other_query: str = ""


OPERATION = {"op": "link", "document_id": "doc_2", "resource_id": "ship_2"}
NONSENSE = {"op": "link", "document_id": "doc_2", "resource_id": "truck_1"}

CALLS = {
    "link": Call(
        "POST",
        "/v1/documents/doc_1/link",
        {"entity_type": "deal", "entity_id": "deal_2"},
        {"entity_type": "deal", "entity_id": "deal_3"},
    ),
    "links": Call(
        "POST", "/v1/documents/doc_1/links", {"resource_id": "ship_1"}, {"resource_id": "ship_2"}
    ),
    "unlink": Call("DELETE", "/v1/documents/doc_1/links/{link}", None, other_query="?x=1"),
    "unlink resource": Call(
        "DELETE",
        "/v1/documents/doc_1/links",
        None,
        query="?resource_id=deal_1&resource_type=deal",
        other_query="?resource_id=ship_1",
    ),
    "role": Call("PATCH", "/v1/documents/doc_1/links/{link}", {"role": "a"}, {"role": "b"}),
    "create": Call("POST", "/v1/documents", {"resources": ["ship_1"]}, {"resources": ["ship_2"]}),
    "put": Call("PUT", "/v1/documents/mine", {"resources": ["ship_1"]}, {"resources": []}),
    "update": Call(
        "POST", "/v1/documents/doc_1", {"resources": {"set": ["ship_1"]}}, {"metadata": {}}
    ),
    "delete": Call("DELETE", "/v1/documents/doc_1", None, other_query="?x=1"),
    "restore": Call("POST", "/v1/documents/doc_9/restore", None, other_query="?x=1"),
    "put entity": Call("PUT", "/v1/entities/task/new", None, other_query="?x=1"),
    "delete entity": Call("DELETE", "/v1/entities/deal/deal_1", None, other_query="?x=1"),
    "batch": Call(
        "POST",
        "/v1/links/batch",
        {"operations": [OPERATION]},
        {"operations": [OPERATION], "atomic": True},
    ),
    "batch of nothing": Call(
        "POST", "/v1/links/batch", {"operations": [NONSENSE]}, {"operations": [NONSENSE] * 2}
    ),
}
EVERY_CALL = pytest.mark.parametrize("call", CALLS.values(), ids=CALLS)


@pytest.fixture
async def link_id(api: Api) -> str:
    """Link doc_1 to a deal, delete doc_9, and return the link's id."""
    await api.add("doc_9", "ship_9")
    await api.client.delete("/v1/documents/doc_9")
    made = await api.link("doc_1", Link("deal", "deal_1"))
    found: str = made.json()["data"]["link_id"]
    return found


async def send(api: Api, call: Call, link_id: str, *, other: bool = False) -> httpx.Response:
    """Send the call, or the other one, with the same key."""
    url = call.path.format(link=link_id) + (call.other_query if other else call.query)
    body = call.other if other else call.body
    return await api.client.request(
        call.method, url, json=body, headers={"Idempotency-Key": '"the-key"'}
    )


@EVERY_CALL
async def test_second_call_is_answered_from_the_first(
    api: Api, connection: asyncpg.Connection, link_id: str, call: Call
) -> None:
    """Status and body are replayed, marked as a replay, and nothing is written."""
    first = await send(api, call, link_id)
    assert first.is_success, first.text
    assert "idempotent-replayed" not in first.headers
    rows = await everything(connection)
    again = await send(api, call, link_id)
    assert (again.status_code, again.content) == (first.status_code, first.content)
    assert again.headers["idempotent-replayed"] == "true"
    assert await everything(connection) == rows
    await check_outbox(connection)


@EVERY_CALL
async def test_another_call_under_the_same_key_is_refused(
    api: Api, connection: asyncpg.Connection, link_id: str, call: Call
) -> None:
    """Another body or query string is 422, and nothing is written."""
    assert (await send(api, call, link_id)).is_success
    rows = await everything(connection)
    other = await send(api, call, link_id, other=True)
    assert (other.status_code, other.json()["code"]) == (422, "idempotency_mismatch")
    assert await everything(connection) == rows


@EVERY_CALL
async def test_calls_at_once_are_one(
    api: Api, connection: asyncpg.Connection, link_id: str, call: Call
) -> None:
    """Of several concurrent calls one is executed, and all get its answer."""
    answers = await asyncio.gather(*(send(api, call, link_id) for _ in range(6)))
    assert {(answer.status_code, answer.content) for answer in answers} == {
        (answers[0].status_code, answers[0].content)
    }
    assert answers[0].is_success
    assert sum("idempotent-replayed" not in answer.headers for answer in answers) == 1
    await check_outbox(connection)


async def test_failures_are_not_stored(api: Api) -> None:
    """A refused call can be repeated with its key once the reason is gone."""
    headers = {"Idempotency-Key": "k"}
    refused = await api.add("doc_1", "ship_new", headers)
    await api.client.put("/v1/entities/shipment/ship_new")
    done = await api.add("doc_1", "ship_new", headers)
    assert (refused.status_code, done.status_code) == (404, 201)


@pytest.mark.parametrize("key", ["", " ", '""', "a b", "x" * 256, "é"])
async def test_malformed_key_is_refused(
    api: Api, connection: asyncpg.Connection, link_id: str, key: str
) -> None:
    """A key that is not 1 to 255 visible characters is 400 on each call."""
    rows = await everything(connection)
    for call in CALLS.values():
        answer = await api.client.request(
            call.method,
            call.path.format(link=link_id) + call.query,
            json=call.body,
            headers=[(b"Idempotency-Key", key.encode())],
        )
        assert answer.status_code == 400, call
        assert answer.json()["errors"][0]["field"] == "Idempotency-Key"
    assert await everything(connection) == rows
