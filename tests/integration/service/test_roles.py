"""Changes of a link's role, and unlinking by entity."""

import json

import asyncpg
import pytest

from tests.support.service.api import Api, Link
from tests.support.service.rows import everything
from tests.support.topic.subscriber import check_outbox, read_outbox

DEAL = Link("deal", "deal_1", "draft")
LINKS = "/v1/documents/doc_1/links"


async def made(api: Api) -> str:
    """Link doc_1 to a deal; return the link's TypeID."""
    link_id: str = (await api.link("doc_1", DEAL)).json()["data"]["link_id"]
    return link_id


async def test_role_is_changed_and_cleared(api: Api, connection: asyncpg.Connection) -> None:
    """A new role replaces the old one, null clears it; the answer has the form of `/link`."""
    before = (await api.link("doc_1", DEAL)).json()["data"]
    url = f"{LINKS}/{before['link_id']}"
    changed = await api.client.patch(url, json={"role": "signed"})
    assert changed.status_code == 200
    assert changed.json() == {"data": {**before, "role": "signed"}, "message": "Link updated"}
    cleared = await api.client.patch(url, json={"role": None})
    assert cleared.json()["data"]["role"] is None
    events = [json.loads(value) for value in await read_outbox(connection)][1:]
    assert [event["type"] for event in events] == ["document.link_updated"] * 2
    assert [event["data"]["previous"]["role"] for event in events] == ["draft", "signed"]
    assert {event["data"]["cause"] for event in events} == {"update"}
    await check_outbox(connection)


async def test_same_role_writes_nothing(api: Api, connection: asyncpg.Connection) -> None:
    """The link's present role changes nothing."""
    url = f"{LINKS}/{await made(api)}"
    rows = await everything(connection)
    assert (await api.client.patch(url, json={"role": "draft"})).status_code == 200
    assert await everything(connection) == rows


async def test_both_forms_of_the_id(api: Api) -> None:
    """A role is changed by the link's UUID as well."""
    await made(api)
    uuid = (await api.links("doc_1"))[0]["id"]
    changed = await api.client.patch(f"{LINKS}/{uuid.upper()}", json={"role": "x"})
    assert changed.json()["data"]["role"] == "x"


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({}, "role"),
        ({"role": 5}, "role"),
        ({"role": "x" * 65}, "role"),
        ({"role": "a\0"}, "role"),
        ({"role": "x", "entity_id": "deal_2"}, "entity_id"),
    ],
)
async def test_wrong_role_is_refused(
    api: Api, connection: asyncpg.Connection, body: dict[str, object], field: str
) -> None:
    """A body without a role, with a wrong role or with another field is 400."""
    url = f"{LINKS}/{await made(api)}"
    rows = await everything(connection)
    answer = await api.client.patch(url, json=body)
    assert answer.status_code == 400
    assert [error["field"] for error in answer.json()["errors"]] == [field]
    assert await everything(connection) == rows


async def test_role_of_what_is_not_there(api: Api, connection: asyncpg.Connection) -> None:
    """The role of a removed, unknown or foreign link is 404; an invalid id is 400."""
    link_id = await made(api)
    other = link_id.replace("dlnk_0", "dlnk_7")
    await api.unlink("doc_1", link_id)
    rows = await everything(connection)
    for url in (f"{LINKS}/{link_id}", f"{LINKS}/{other}", f"/v1/documents/doc_2/links/{link_id}"):
        assert (await api.client.patch(url, json={"role": "x"})).status_code == 404
    for bad in ("5", "dlnk_", link_id[:-1], link_id.replace("dlnk", "doc"), "dlnk_" + "u" * 26):
        assert (await api.client.patch(f"{LINKS}/{bad}", json={"role": "x"})).status_code == 400
    assert await everything(connection) == rows


async def test_unlink_by_resource(api: Api, connection: asyncpg.Connection) -> None:
    """A prefix gives the type; without a prefix the type is required."""
    ship = (await api.add("doc_1", "ship_1")).json()["data"]["id"]
    await made(api)
    gone = await api.client.delete(f"{LINKS}?resource_id=ship_1")
    assert gone.json() == {"data": {"id": ship}, "message": "Document unlinked"}
    assert (await api.client.delete(f"{LINKS}?resource_id=ship_1")).status_code == 404
    untyped = await api.client.delete(f"{LINKS}?resource_id=deal_1")
    assert [error["field"] for error in untyped.json()["errors"]] == ["resource_type"]
    assert "contact, company, deal" in untyped.json()["errors"][0]["message"]
    typed = await api.client.delete(f"{LINKS}?resource_id=deal_1&resource_type=deal")
    assert typed.status_code == 200
    assert await api.links("doc_1") == []
    await check_outbox(connection)


async def test_unlink_takes_the_type_that_is_given(
    api: Api, connection: asyncpg.Connection
) -> None:
    """An id with the prefix of one type can be linked and unlinked as another type."""
    await connection.execute(
        "INSERT INTO entities (workspace_id, type, id) SELECT id, 'deal', 'ship_1' FROM workspaces"
    )
    await api.add("doc_1", "ship_1")
    await api.link("doc_1", Link("deal", "ship_1"))
    await api.client.delete(f"{LINKS}?resource_id=ship_1&resource_type=deal")
    assert [link["resource"]["type"] for link in await api.links("doc_1")] == ["shipment"]


@pytest.mark.parametrize(
    ("query", "fields"),
    [
        ("", ["resource_id"]),
        ("?resource_type=deal", ["resource_id"]),
        ("?resource_id=a&resource_type=truck", ["resource_type"]),
        ("?resource_id=a%20b&resource_type=deal", ["resource_id"]),
        ("?resource=ship_1", ["resource", "resource_id"]),
        ("?resource_id=ship_1&resource_id=ship_2", ["resource_id"]),
    ],
)
async def test_malformed_unlink_is_refused(api: Api, query: str, fields: list[str]) -> None:
    """A query that does not name one resource is 400, with the names of the wrong parameters."""
    answer = await api.client.delete(LINKS + query)
    assert answer.status_code == 400
    assert [error["field"] for error in answer.json()["errors"]] == fields
