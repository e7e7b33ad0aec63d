"""Entities: registered, deleted with their links, revived; and the documents linked to them."""

import asyncio
import json
from typing import Any

import asyncpg
import pytest

from service.store.writing import alone, cascade
from tests.support.service.api import Api
from tests.support.service.locks import locked, waiting
from tests.support.service.rows import everything
from tests.support.topic.subscriber import check_outbox, read_outbox
from tests.support.waiting import until

SHIP = "/v1/entities/shipment/ship_1"

DELETE_LINKS = """
UPDATE document_links
SET deleted_at = now(), deleted_cause = 'document_deleted'
WHERE document_id = 'doc_3'
"""
DELETE_DOCUMENT = """
UPDATE documents
SET deleted_at = now(), deletion_id = gen_random_uuid()
WHERE id = 'doc_3'
"""


async def link_everywhere(api: Api, documents: int) -> None:
    """Link doc_1 … to ship_1 and ship_2."""
    operations = [
        {"op": "link", "document_id": f"doc_{n}", "resource_id": ship}
        for n in range(1, documents + 1)
        for ship in ("ship_1", "ship_2")
    ]
    answer = await api.client.post("/v1/links/batch", json={"operations": operations})
    assert answer.json()["message"] == f"{2 * documents} of {2 * documents} operations applied"


async def documents_of(api: Api, entity: str = SHIP, **query: str | int) -> list[str]:
    """Return the ids of the documents linked to an entity."""
    answer = await api.client.get(f"{entity}/documents", params=query)
    assert answer.status_code == 200, answer.text
    return [document["id"] for document in answer.json()["data"]]


async def test_put_registers_once(api: Api, connection: asyncpg.Connection) -> None:
    """A new entity is 201, a known one 200 without a write; it can be linked at once."""
    first = await api.client.put("/v1/entities/shipment/ship_new")
    assert first.status_code == 201
    assert first.json() == {
        "data": {"id": "ship_new", "type": "shipment"},
        "message": "Entity registered",
    }
    rows = await everything(connection)
    again = await api.client.put("/v1/entities/shipment/ship_new")
    assert (again.status_code, again.json()["message"]) == (200, "Entity already registered")
    assert await everything(connection) == rows
    assert (await api.add("doc_1", "ship_new")).status_code == 201


@pytest.mark.parametrize("method", ["PUT", "DELETE", "GET"])
async def test_unknown_type_is_refused_with_the_list(api: Api, method: str) -> None:
    """The refusal of an unknown type lists the known ones."""
    path = "/v1/entities/truck/truck_1" + ("/documents" if method == "GET" else "")
    answer = await api.client.request(method, path)
    assert answer.status_code == 400
    (error,) = answer.json()["errors"]
    assert error["field"] == "type"
    assert "contact, company, deal, event, matter, task, fulfillment" in error["message"]


async def test_deletion_unlinks_everywhere(api: Api, connection: asyncpg.Connection) -> None:
    """Each link to the entity gets an event with the cause, other links stay, and the entity is 404."""
    await link_everywhere(api, 20)
    deleted = await api.client.delete(SHIP)
    assert deleted.json() == {
        "data": {"id": "ship_1", "type": "shipment"},
        "message": "Entity deleted",
    }
    events = [json.loads(value) for value in await read_outbox(connection)][40:]
    assert {(event["type"], event["data"]["cause"]) for event in events} == {
        ("document.unlinked", "entity_deleted")
    }
    assert {event["subject"] for event in events} == {f"doc_{n}" for n in range(1, 21)}
    rows = await everything(connection)
    for call in (
        api.client.delete(SHIP),
        api.client.get(f"{SHIP}/documents"),
        api.add("doc_1", "ship_1"),
        api.client.delete("/v1/entities/shipment/ship_99"),
    ):
        assert (await call).status_code == 404
    assert await everything(connection) == rows
    assert len(await documents_of(api, "/v1/entities/shipment/ship_2")) == 20
    await check_outbox(connection)


async def test_put_revives_without_the_links(api: Api, connection: asyncpg.Connection) -> None:
    """A revived entity has no links; linking restores a former one."""
    await link_everywhere(api, 3)
    await api.client.delete(SHIP)
    back = await api.client.put(SHIP)
    assert (back.status_code, back.json()["message"]) == (201, "Entity registered")
    assert await documents_of(api) == []
    assert (await api.add("doc_1", "ship_1")).json()["message"] == "Link restored"
    await check_outbox(connection)


async def half_delete(connection: asyncpg.Connection) -> None:
    """Leave ship_1 in the state of a deletion that was killed after its first transaction."""
    await connection.execute("UPDATE entities SET deleted_at = now() WHERE id = 'ship_1'")


async def test_interrupted_deletion_is_finished(api: Api, connection: asyncpg.Connection) -> None:
    """A second deletion finishes an interrupted one; a third is 404."""
    await link_everywhere(api, 5)
    await half_delete(connection)
    assert (await api.client.delete(SHIP)).status_code == 200
    assert (await api.client.delete(SHIP)).status_code == 404
    links = await api.links("doc_1")
    assert [link["resource"]["id"] for link in links] == ["ship_2"]
    await check_outbox(connection)


async def test_put_in_the_middle_of_a_deletion(api: Api, connection: asyncpg.Connection) -> None:
    """A PUT of a half deleted entity removes the remaining links and then revives it."""
    await link_everywhere(api, 5)
    await half_delete(connection)
    assert (await api.client.put(SHIP)).status_code == 201
    assert await documents_of(api) == []
    assert (await api.add("doc_1", "ship_1")).status_code == 200
    await check_outbox(connection)


async def test_half_deleted_entity_takes_no_links(api: Api, connection: asyncpg.Connection) -> None:
    """From the beginning of a deletion no call links to the entity; remaining links are shown."""
    await link_everywhere(api, 1)
    await half_delete(connection)
    item = {"op": "link", "document_id": "doc_2", "resource_id": "ship_1"}
    calls = [
        ("POST", "/v1/documents/doc_2/links", {"resource_id": "ship_1"}),
        ("POST", "/v1/documents/doc_2", {"resources": {"add": ["ship_1"]}}),
        ("POST", "/v1/documents", {"resources": ["ship_1"]}),
        ("PUT", "/v1/documents/doc_2", {"resources": ["ship_1"]}),
        ("POST", "/v1/links/batch", {"operations": [item], "atomic": True}),
    ]
    for method, path, body in calls:
        assert (await api.client.request(method, path, json=body)).status_code == 404, path
    assert len(await api.links("doc_1", resource_id="ship_1")) == 1


async def test_document_deleted_during_the_deletion(
    api: Api, connection: asyncpg.Connection, database: str
) -> None:
    """The deletion of a document between two steps does not stop the entity's deletion."""
    await link_everywhere(api, 5)
    async with locked(database, "doc_3") as other:
        deletion = asyncio.create_task(api.client.delete(SHIP))
        await until(lambda: waiting(connection))
        await other.execute(DELETE_LINKS)
        await other.execute(DELETE_DOCUMENT)
        await other.execute("COMMIT")
    assert (await deletion).status_code == 200
    left = await connection.fetchval(
        "SELECT count(*) FROM document_links WHERE entity_id = 'ship_1' AND deleted_at IS NULL"
    )
    assert left == 0


@pytest.mark.parametrize("documents", [0, 1, 5, 6, 20])
async def test_reply_is_stored_with_the_last_link(
    api: Api, connection: asyncpg.Connection, monkeypatch: pytest.MonkeyPatch, documents: int
) -> None:
    """The reply for the Idempotency-Key is stored with the last link, and replayed from then on."""
    monkeypatch.setattr(cascade, "CASCADE_CHUNK", 5)
    if documents:
        await link_everywhere(api, documents)
    headers = {"Idempotency-Key": "delete-ship"}
    first = await api.client.delete(SHIP, headers=headers)
    assert first.status_code == 200
    stored = await connection.fetchval("SELECT xmin::text FROM idempotency_keys WHERE body <> ''")
    last = await connection.fetchval("SELECT max(xid::text::bigint)::text FROM outbox")
    deleted = await connection.fetchval("SELECT xmin::text FROM entities WHERE id = 'ship_1'")
    assert stored == (last if documents else deleted)
    again = await api.client.delete(SHIP, headers=headers)
    assert (again.status_code, again.content) == (200, first.content)
    assert again.headers["idempotent-replayed"] == "true"
    await check_outbox(connection)


async def test_two_deletions_with_one_key_are_one(api: Api, connection: asyncpg.Connection) -> None:
    """Concurrent callers with the same deletion and key all get its one answer."""
    await link_everywhere(api, 20)
    headers = {"Idempotency-Key": "delete-ship"}
    answers = await asyncio.gather(*(api.client.delete(SHIP, headers=headers) for _ in range(8)))
    assert {(answer.status_code, answer.content) for answer in answers} == {
        (200, answers[0].content)
    }
    await check_outbox(connection)


async def test_documents_of_an_entity(api: Api) -> None:
    """The documents of an entity are listed with their links, oldest first, and can be filtered by role."""
    await api.client.post("/v1/documents/doc_1", json={"display_name": "First"})
    deal: dict[str, Any] = {"entity_type": "deal", "entity_id": "deal_1"}
    for document, role in (("doc_1", "signed"), ("doc_2", None), ("doc_3", "signed")):
        body = {**deal, "role": role}
        await api.client.post(f"/v1/documents/{document}/link", json=body)
    entity = "/v1/entities/deal/deal_1"
    assert await documents_of(api, entity) == ["doc_1", "doc_2", "doc_3"]
    assert await documents_of(api, entity, role="signed") == ["doc_1", "doc_3"]
    assert await documents_of(api, entity, role="none") == []
    page = await api.client.get(f"{entity}/documents?limit=1&page=2&role=signed")
    assert page.json()["pagination"] == {"page": 2, "limit": 1, "total": 2}
    assert page.json()["message"] == "1 document retrieved"
    first = (await api.client.get(f"{entity}/documents")).json()["data"][0]
    link = first.pop("link")
    assert first == {"id": "doc_1", "display_name": "First"}
    assert (link["role"], set(link)) == ("signed", {"id", "role", "created_at"})


async def test_reverse_look_up(api: Api, connection: asyncpg.Connection) -> None:
    """Documents are found by a resource's id, with or without its type; without an id the call is 400."""
    await connection.execute(
        "INSERT INTO entities (workspace_id, type, id) SELECT id, 'deal', 'ship_1' FROM workspaces"
    )
    await api.add("doc_1", "ship_1")
    body = {"entity_type": "deal", "entity_id": "ship_1"}
    await api.client.post("/v1/documents/doc_2/link", json=body)
    found = {}
    for query in ("", "&resource_type=deal", "&resource_type=shipment", "&resource_type=item"):
        answer = await api.client.get(f"/v1/documents?resource_id=ship_1{query}")
        found[query.rpartition("=")[2]] = [document["id"] for document in answer.json()["data"]]
    assert found == {"": ["doc_1", "doc_2"], "deal": ["doc_2"], "shipment": ["doc_1"], "item": []}
    nobody = await api.client.get("/v1/documents?resource_id=nobody")
    assert (nobody.status_code, nobody.json()["message"]) == (200, "0 documents retrieved")
    missing = await api.client.get("/v1/documents?resource_type=deal")
    assert [error["field"] for error in missing.json()["errors"]] == ["resource_id"]


@pytest.mark.parametrize(("method", "status"), [("DELETE", 200), ("PUT", 201)])
async def test_more_links_than_one_call_has_time_for(
    api: Api,
    connection: asyncpg.Connection,
    monkeypatch: pytest.MonkeyPatch,
    method: str,
    status: int,
) -> None:
    """A 503 says that the call must be repeated; each call removes a part, and the last one is 200."""
    monkeypatch.setattr(cascade, "CASCADE_CHUNK", 5)
    monkeypatch.setattr(alone, "WORK_S", 0.0)
    await link_everywhere(api, 20)
    await half_delete(connection)
    answers = [await api.client.request(method, SHIP) for _ in range(4)]
    assert [answer.status_code for answer in answers] == [503, 503, 503, status]
    assert all("call again" in answer.json()["detail"] for answer in answers[:3])
    assert all(answer.headers["retry-after"] for answer in answers[:3])
    assert await documents_of(api, "/v1/entities/shipment/ship_2") != []
    await check_outbox(connection)


@pytest.mark.parametrize("method", ["DELETE", "PUT"])
async def test_deletion_has_a_deadline(
    monkeypatch: pytest.MonkeyPatch, api: Api, method: str
) -> None:
    """A deletion whose transaction never ends is answered in time, with what to do."""
    monkeypatch.setattr("service.edge.calls.endpoint.WRITE_DEADLINE_S", 0.1)
    monkeypatch.setattr("service.store.writing.group.DRAIN_TIMEOUT_S", 0.1)

    async def hang(*_: object, **__: object) -> None:
        await asyncio.Event().wait()

    monkeypatch.setattr("service.store.writing.transaction.Transactions.run_alone", hang)
    async with asyncio.timeout(5):
        answer = await api.client.request(method, SHIP)
    assert (answer.status_code, answer.headers["retry-after"]) == (503, "1")
    assert "call again" in answer.json()["detail"]
