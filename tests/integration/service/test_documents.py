"""The life of a document: created, replaced, read, deleted, restored."""

import json
import re
from typing import Any

import asyncpg
import httpx
import pytest

from tests.support.service.api import Api
from tests.support.service.rows import everything
from tests.support.topic.subscriber import check_outbox, read_outbox

URL = "/v1/documents/doc_1"


async def entities_of(api: Api, document: str = "doc_1") -> list[str]:
    """Return the ids of a document's linked entities, oldest link first."""
    answer = await api.client.get(f"/v1/documents/{document}")
    return [link["entity_id"] for link in answer.json()["data"]["linked_entities"]]


async def test_create_makes_an_id(api: Api, connection: asyncpg.Connection) -> None:
    """A document that is created without an id gets one, with its fields, links and first revision."""
    deal = {"entity_type": "deal", "entity_id": "deal_1", "role": "signed"}
    body = {
        "display_name": "N",
        "category": "c",
        "metadata": {"a": 1},
        "resources": ["ship_1", deal],
    }
    made = await api.client.post("/v1/documents", json=body)
    assert (made.status_code, made.headers["etag"]) == (201, '"1"')
    data = made.json()["data"]
    assert re.fullmatch("doc_[0-7][0-9a-hjkmnp-tv-z]{25}", data["id"])
    assert (data["display_name"], data["category"], data["metadata"]) == ("N", "c", {"a": 1})
    assert data["linkages"] == {"shipment": 1, "deal": 1}
    ids = {link["link_id"] for link in data["linked_entities"]}  # of one moment: in any order
    assert set(made.json()["changes"]["linked"]) == ids
    read = await api.client.get(f"/v1/documents/{data['id']}")
    assert (read.json()["data"], read.headers["etag"]) == (data, '"1"')
    await check_outbox(connection)


async def test_create_with_an_id_that_is_taken(api: Api, connection: asyncpg.Connection) -> None:
    """The id of an existing or a deleted document is a conflict."""
    assert (await api.client.post("/v1/documents", json={"id": "mine"})).status_code == 201
    rows = await everything(connection)
    taken = await api.client.post("/v1/documents", json={"id": "mine", "resources": ["ship_1"]})
    assert (taken.status_code, taken.json()["code"]) == (409, "conflict")
    assert await everything(connection) == rows
    await api.client.delete("/v1/documents/mine")
    again = await api.client.post("/v1/documents", json={"id": "mine"})
    assert (again.status_code, "deleted" in again.json()["detail"]) == (409, True)


async def test_create_with_an_unknown_entity_makes_nothing(
    api: Api, connection: asyncpg.Connection
) -> None:
    """A document with a link to an unknown entity is not created."""
    rows = await everything(connection)
    body = {"id": "mine", "resources": ["ship_1", "ship_99"]}
    for call in (
        api.client.post("/v1/documents", json=body),
        api.client.put("/v1/documents/mine", json=body),
    ):
        assert (await call).status_code == 404
    assert await everything(connection) == rows


async def test_put_makes_replaces_and_brings_back(api: Api, connection: asyncpg.Connection) -> None:
    """PUT is 201 for a new or a deleted document, 200 for an existing one; a deleted one has no links."""
    body = {"display_name": "N", "resources": ["ship_1", "ship_2"]}
    answers = [await api.client.put("/v1/documents/mine", json=body) for _ in range(2)]
    assert [answer.status_code for answer in answers] == [201, 200]
    assert answers[0].headers["etag"] == answers[1].headers["etag"] == '"1"'
    await api.client.delete("/v1/documents/mine")
    back = await api.client.put("/v1/documents/mine", json={"category": "c"})
    assert (back.status_code, back.headers["etag"]) == (201, '"3"')
    data = back.json()["data"]
    assert (data["display_name"], data["category"], data["linked_entities"]) == (None, "c", [])
    assert back.json()["message"] == "Document created"
    linked = await api.add("mine", "ship_1")
    assert linked.json()["message"] == "Link restored"
    subscriber = await check_outbox(connection)
    assert list(subscriber.versions.values()) == [5]


async def test_put_that_brings_back_may_link(api: Api, connection: asyncpg.Connection) -> None:
    """A set in the PUT of a deleted document restores exactly the links in it."""
    await api.client.put(URL, json={"resources": ["ship_1", "ship_2"]})
    await api.client.delete(URL)
    back = await api.client.put(URL, json={"resources": ["ship_2", "ship_3"]})
    counts = {kind: len(ids) for kind, ids in back.json()["changes"].items()}
    assert counts == {"linked": 1, "restored": 1, "unlinked": 0, "updated": 0}
    assert sorted(await entities_of(api)) == ["ship_2", "ship_3"]
    again = await api.client.post(f"{URL}/restore")
    assert not any(again.json()["changes"].values())
    await check_outbox(connection)


async def test_put_without_resources_keeps_the_links(api: Api) -> None:
    """PUT clears absent fields, but changes links only with a set; null is no set."""
    await api.client.put(URL, json={"metadata": {"a": 1}, "resources": ["ship_1"]})
    kept = await api.client.put(URL, json={"display_name": "N"})
    assert kept.json()["data"]["metadata"] is None
    assert await entities_of(api) == ["ship_1"]
    assert (await api.client.put(URL, json={"resources": None})).status_code == 200
    assert await entities_of(api) == ["ship_1"]
    await api.client.put(URL, json={"resources": []})
    assert await entities_of(api) == []


@pytest.mark.parametrize(("body_id", "status"), [("doc_1", 200), ("doc_2", 400)])
async def test_id_in_the_body_of_a_put(api: Api, body_id: str, status: int) -> None:
    """The body may have the id, if it is that of the path."""
    answer = await api.client.put(URL, json={"id": body_id})
    assert answer.status_code == status
    if status == 400:
        assert [error["field"] for error in answer.json()["errors"]] == ["id"]


async def test_put_of_a_new_document_does_not_match_a_revision(
    api: Api, connection: asyncpg.Connection
) -> None:
    """PUT of a missing document with If-Match is refused, and creates nothing."""
    rows = await everything(connection)
    for tags in ('"1"', "*"):
        answer = await api.client.put("/v1/documents/mine", json={}, headers={"If-Match": tags})
        assert answer.status_code == 412
    assert await everything(connection) == rows


async def test_deleted_document_is_gone(api: Api, connection: asyncpg.Connection) -> None:
    """After its deletion each call on a document is 404, and writes nothing."""
    link_id = (await api.add("doc_1", "ship_1")).json()["data"]["id"]
    deleted = await api.client.delete(URL)
    assert deleted.json() == {"data": {"id": "doc_1"}, "message": "Document deleted"}
    rows = await everything(connection)
    calls: list[tuple[str, str, object]] = [
        ("GET", "", None),
        ("DELETE", "", None),
        ("POST", "", {"category": "x"}),
        ("GET", "/links", None),
        ("POST", "/link", {"entity_type": "deal", "entity_id": "deal_1"}),
        ("POST", "/links", {"resource_id": "ship_1"}),
        ("PATCH", f"/links/{link_id}", {"role": "x"}),
        ("DELETE", f"/links/{link_id}", None),
        ("DELETE", "/links?resource_id=ship_1", None),
    ]
    for method, path, body in calls:
        answer = await api.client.request(method, URL + path, json=body)
        assert (answer.status_code, answer.json()["code"]) == (404, "not_found"), (method, path)
    assert await everything(connection) == rows


async def test_deletion_unlinks(api: Api, connection: asyncpg.Connection) -> None:
    """Each active link gets an event whose cause is the deletion."""
    await api.client.put(URL, json={"resources": ["ship_1", "ship_2"]})
    await api.add("doc_2", "ship_1")
    await api.client.delete(URL)
    events = [json.loads(value) for value in await read_outbox(connection)][3:]
    assert [(event["type"], event["data"]["cause"]) for event in events] == [
        ("document.unlinked", "document_deleted")
    ] * 2
    found = await api.client.get("/v1/documents", params={"resource_id": "ship_1"})
    assert [document["id"] for document in found.json()["data"]] == ["doc_2"]
    await check_outbox(connection)


async def restore(api: Api) -> httpx.Response:
    """Restore doc_1."""
    return await api.client.post(f"{URL}/restore")


async def test_restore_restores_the_links_of_the_deletion(
    api: Api, connection: asyncpg.Connection
) -> None:
    """Links that were removed earlier, or whose entity is deleted, are not restored."""
    await api.client.put(URL, json={"resources": ["ship_1", "ship_2", "ship_3"], "category": "c"})
    await api.client.delete(f"{URL}/links?resource_id=ship_1")
    await api.client.delete(URL)
    await api.client.delete("/v1/entities/shipment/ship_3")
    back = await restore(api)
    assert (back.status_code, back.json()["message"]) == (200, "Document restored")
    assert back.json()["data"]["category"] == "c"
    assert len(back.json()["changes"]["restored"]) == 1
    assert await entities_of(api) == ["ship_2"]
    events = [json.loads(value) for value in await read_outbox(connection)]
    assert (events[-1]["type"], events[-1]["data"]["cause"]) == (
        "document.restored",
        "document_restored",
    )
    await check_outbox(connection)


async def test_second_deletion_has_links_of_its_own(
    api: Api, connection: asyncpg.Connection
) -> None:
    """A restore does not restore links that only an earlier deletion removed."""
    await api.client.put(URL, json={"resources": ["ship_1", "ship_2"]})
    await api.client.delete(URL)
    await restore(api)
    await api.client.delete(f"{URL}/links?resource_id=ship_1")
    await api.client.delete(URL)
    assert len((await restore(api)).json()["changes"]["restored"]) == 1
    assert await entities_of(api) == ["ship_2"]
    await check_outbox(connection)


async def test_restore_of_an_active_document_changes_nothing(
    api: Api, connection: asyncpg.Connection
) -> None:
    """Restoring a document that is not deleted is 200 and writes no row; an unknown one is 404."""
    await api.add("doc_1", "ship_1")
    rows = await everything(connection)
    answer = await restore(api)
    assert (answer.status_code, answer.json()["message"]) == (200, "Document is not deleted")
    assert not any(answer.json()["changes"].values())
    assert (await api.client.post("/v1/documents/doc_99/restore")).status_code == 404
    assert await everything(connection) == rows


async def test_revision_grows_over_deletion_and_return(api: Api) -> None:
    """No ETag occurs twice, over deletion and restoration."""
    tags = [(await api.client.put(URL, json={"resources": ["ship_1"]})).headers["etag"]]
    for _ in range(2):
        await api.client.delete(URL)
        tags.append((await restore(api)).headers["etag"])
    assert tags == ['"2"', '"4"', '"6"']


async def test_document_of_another_workspace_does_not_exist(
    api: Api, connection: asyncpg.Connection
) -> None:
    """The same id in two workspaces means two documents."""
    await connection.execute("INSERT INTO workspaces (name) VALUES ('other')")
    await connection.execute(
        "INSERT INTO documents (workspace_id, id) SELECT id, 'theirs' FROM workspaces WHERE name = 'other'"
    )
    calls: list[tuple[str, str, dict[str, Any] | None]] = [
        ("GET", "", None),
        ("POST", "", {}),
        ("DELETE", "", None),
        ("POST", "/restore", None),
    ]
    for method, path, body in calls:
        answer = await api.client.request(method, f"/v1/documents/theirs{path}", json=body)
        assert answer.status_code == 404
    assert (await api.client.put("/v1/documents/theirs", json={})).status_code == 201
