"""Updates of a document and its links in one call."""

import asyncio
import json
from typing import Any, NamedTuple

import asyncpg
import httpx
import pytest

from tests.support.service.api import Api
from tests.support.service.rows import everything
from tests.support.topic.subscriber import check_outbox, read_outbox

BOTH_KINDS = ["ship_1", {"entity_type": "deal", "entity_id": "deal_1", "role": "signed"}]


async def update(api: Api, body: object, document: str = "doc_1", **headers: str) -> httpx.Response:
    """Update a document."""
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return await api.client.post(f"/v1/documents/{document}", json=body, headers=named)


async def linked(api: Api, document: str = "doc_1") -> list[tuple[str, str, str | None]]:
    """Return type, id and role of the document's links, oldest first."""
    document_now = (await api.client.get(f"/v1/documents/{document}")).json()["data"]
    return [
        (link["entity_type"], link["entity_id"], link["role"])
        for link in document_now["linked_entities"]
    ]


async def test_set_leaves_exactly_the_new_set(api: Api, connection: asyncpg.Connection) -> None:
    """A set replaces all links, whichever call made them."""
    before = await update(api, {"resources": {"set": [*BOTH_KINDS, "item_1"]}})
    wanted = ["item_1", "ship_2", {"entity_type": "deal", "entity_id": "deal_2"}]
    after = await update(api, {"resources": {"set": wanted}})
    assert (before.status_code, after.status_code) == (200, 200)
    assert sorted(await linked(api)) == [
        ("deal", "deal_2", None),
        ("item", "item_1", None),
        ("shipment", "ship_2", None),
    ]
    made, changes = before.json()["changes"], after.json()["changes"]
    assert {kind: len(ids) for kind, ids in changes.items()} == {
        "linked": 2,
        "restored": 0,
        "unlinked": 2,
        "updated": 0,
    }
    assert set(changes["unlinked"]) < set(made["linked"])
    await check_outbox(connection)


async def test_set_restores_removed_links(api: Api, connection: asyncpg.Connection) -> None:
    """A removed link that is in a set gets its old id, and its event is document.restored."""
    first = (await update(api, {"resources": {"set": ["ship_1"]}})).json()["changes"]["linked"]
    await update(api, {"resources": {"set": []}})
    assert await linked(api) == []
    back = (await update(api, {"resources": {"set": ["ship_1"]}})).json()["changes"]
    assert back == {"linked": [], "restored": first, "unlinked": [], "updated": []}
    await check_outbox(connection)


async def test_repeated_set_writes_nothing(api: Api, connection: asyncpg.Connection) -> None:
    """The same update again changes no row, writes no event and keeps the ETag."""
    body = {"metadata": {"a": [1]}, "resources": {"set": BOTH_KINDS}}
    first = await update(api, body)
    rows = await everything(connection)
    again = await update(api, body)
    assert await everything(connection) == rows
    assert again.headers["etag"] == first.headers["etag"]
    assert again.json()["data"] == first.json()["data"]
    assert not any(again.json()["changes"].values())


async def test_set_gives_the_roles_that_it_names(api: Api, connection: asyncpg.Connection) -> None:
    """A role in a set replaces the link's role; without one the role stays."""
    deal = {"entity_type": "deal", "entity_id": "deal_1"}
    await update(api, {"resources": {"set": [{**deal, "role": "draft"}]}})
    changed = await update(api, {"resources": {"set": [{**deal, "role": "signed"}]}})
    kept = await update(api, {"resources": {"set": [deal]}})
    assert len(changed.json()["changes"]["updated"]) == 1
    assert not any(kept.json()["changes"].values())
    assert await linked(api) == [("deal", "deal_1", "signed")]
    events = [json.loads(value) for value in await read_outbox(connection)]
    assert [event["type"] for event in events] == ["document.linked", "document.link_updated"]
    assert events[1]["data"]["previous"] == {"role": "draft", "deleted_at": None}
    await check_outbox(connection)


async def test_add_and_remove(api: Api, connection: asyncpg.Connection) -> None:
    """Removing a missing link and adding an existing one change nothing; repeated items count once."""
    await update(api, {"resources": {"add": ["ship_1", "ship_2"]}})
    deal = {"entity_type": "deal", "entity_id": "deal_1"}
    body = {"resources": {"add": ["ship_2", deal, deal], "remove": ["ship_1", "item_9", "ship_1"]}}
    answer = await update(api, body)
    counts = {kind: len(ids) for kind, ids in answer.json()["changes"].items()}
    assert counts == {"linked": 1, "restored": 0, "unlinked": 1, "updated": 0}
    assert await linked(api) == [("shipment", "ship_2", None), ("deal", "deal_1", None)]
    await check_outbox(connection)


async def test_type_and_id_given_together_are_taken_as_they_are(
    api: Api, connection: asyncpg.Connection
) -> None:
    """An entity may have an id with the prefix of another type."""
    await connection.execute(
        "INSERT INTO entities (workspace_id, type, id) SELECT id, 'deal', 'ship_1' FROM workspaces"
    )
    items = ["ship_1", {"entity_type": "deal", "entity_id": "ship_1"}]
    await update(api, {"resources": {"set": items}})
    assert sorted(await linked(api)) == [("deal", "ship_1", None), ("shipment", "ship_1", None)]


async def test_events_of_an_update(api: Api, connection: asyncpg.Connection) -> None:
    """The events of an update have its cause and consecutive versions; the revision grows by one."""
    await update(api, {"resources": {"set": ["ship_1", "ship_2"]}})
    before = (await api.client.get("/v1/documents/doc_1")).headers["etag"]
    after = await update(api, {"resources": {"set": ["item_1"]}}, X_Request_ID="update-2")
    assert int(after.headers["etag"].strip('"')) == int(before.strip('"')) + 1
    events = [json.loads(value)["data"] for value in await read_outbox(connection)][2:]
    assert [event["document_version"] for event in events] == [3, 4, 5]
    assert {(event["cause"], event["request_id"]) for event in events} == {("update", "update-2")}


NOT_SET: dict[str, tuple[object, list[str]]] = {
    "no resources": (None, ["ship_1"]),
    "no lists": ({"add": None, "remove": None, "set": None}, ["ship_1"]),
    "empty lists": ({"add": [], "remove": [], "set": []}, ["ship_1"]),
    "an empty set beside an empty list": ({"add": [], "set": []}, ["ship_1"]),
    "an empty set beside a list": ({"add": ["ship_2"], "set": []}, ["ship_1", "ship_2"]),
    "empty lists beside a set": ({"add": [], "remove": [], "set": ["ship_2"]}, ["ship_2"]),
    "an empty set alone": ({"set": []}, []),
    "an empty set beside null": ({"add": None, "set": []}, []),
}


@pytest.mark.parametrize(("resources", "kept"), NOT_SET.values(), ids=NOT_SET)
async def test_lists_that_a_client_has_not_set(
    api: Api, resources: object, kept: list[str]
) -> None:
    """Null, and an empty list beside another one, count as absent: they remove no link."""
    await update(api, {"resources": {"set": ["ship_1"]}})
    assert (await update(api, {"resources": resources})).status_code == 200
    assert sorted(entity_id for _, entity_id, _ in await linked(api)) == kept


class Refused(NamedTuple):
    """An update that is refused with this status."""

    status: int
    body: dict[str, Any]
    document: str = "doc_1"
    if_match: str = "*"


REFUSED = {
    "unknown prefix": Refused(400, {"resources": {"add": ["ship_2", "truck_1"]}}),
    "a prefix alone": Refused(400, {"resources": {"set": ["ship_"]}}),
    "set and add": Refused(400, {"resources": {"set": ["ship_1"], "add": ["ship_2"]}}),
    "set and remove": Refused(400, {"resources": {"set": ["ship_2"], "remove": ["ship_1"]}}),
    "overlap": Refused(400, {"resources": {"add": ["ship_1"], "remove": ["ship_1"]}}),
    "unknown field": Refused(400, {"resource": {"set": []}}),
    "resources as a list": Refused(400, {"resources": ["ship_1"]}),
    "long role": Refused(
        400, {"resources": {"add": [{"entity_type": "deal", "entity_id": "a", "role": "x" * 65}]}}
    ),
    "NUL": Refused(400, {"metadata": {"a": "\0"}}),
    "NUL in a name": Refused(400, {"metadata": {"\0": 1}}),
    "unknown entity": Refused(404, {"resources": {"add": ["ship_2", "ship_99"]}}),
    "unknown entity in a set": Refused(404, {"resources": {"set": ["ship_99"]}}),
    "unknown document": Refused(404, {"resources": {"set": []}}, "doc_99"),
    "another revision": Refused(412, {"resources": {"set": []}}, if_match='"77"'),
    "another revision, weak": Refused(412, {"resources": {"set": []}}, if_match='W/"1"'),
    "no tag": Refused(400, {"resources": {"set": []}}, if_match="2"),
}


@pytest.mark.parametrize("case", REFUSED.values(), ids=REFUSED)
async def test_refused_update_writes_nothing(
    api: Api, connection: asyncpg.Connection, case: Refused
) -> None:
    """A refused update changes no row, not even the valid fields."""
    first = {"metadata": {"kept": True}, "resources": {"set": ["ship_1"]}}
    assert (await update(api, first)).headers["etag"] == '"2"'
    rows = await everything(connection)
    fields = {"display_name": "lost", "category": "lost", "metadata": {"lost": True}}
    headers = {"If_Match": case.if_match, "Idempotency_Key": "refused-call"}
    refused = await update(api, {**fields, **case.body}, case.document, **headers)
    assert refused.status_code == case.status
    assert refused.headers["content-type"] == "application/problem+json"
    assert await everything(connection) == rows


async def test_fields_stay_unless_they_are_named(api: Api) -> None:
    """An absent field stays, null clears a field, and metadata is replaced as a whole."""
    fields = {"display_name": "Name", "category": "kind", "metadata": {"a": {"b": 1}, "c": 2}}
    first = (await update(api, fields)).json()["data"]
    assert fields.items() <= first.items()
    second = (await update(api, {"category": None, "metadata": {"d": 3}})).json()["data"]
    assert (second["display_name"], second["category"]) == ("Name", None)
    assert second["metadata"] == {"d": 3}
    third = (await update(api, {"metadata": None})).json()["data"]
    assert (third["display_name"], third["metadata"]) == ("Name", None)


async def test_empty_update_is_legal(api: Api, connection: asyncpg.Connection) -> None:
    """`{}` returns the document and writes nothing."""
    rows = await everything(connection)
    answer = await update(api, {})
    assert (answer.status_code, answer.headers["etag"]) == (200, '"1"')
    assert answer.json()["message"] == "Document updated"
    assert await everything(connection) == rows


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ('{"a":1}', '{"a":true}'),
        ('{"a":false}', '{"a":0}'),
        ('{"a":[{"b":1}]}', '{"a":[{"b":true}]}'),
    ],
)
async def test_one_is_not_true(api: Api, before: str, after: str) -> None:
    """Metadata of 1 is not equal to true, although Python compares them as equal."""
    for metadata in (before, after):
        content = f'{{"metadata":{metadata}}}'
        headers = {"Content-Type": "application/json"}
        await api.client.post("/v1/documents/doc_1", content=content, headers=headers)
    read = (await api.client.get("/v1/documents/doc_1")).text
    assert f'"metadata":{after}' in read


@pytest.mark.parametrize(("depth", "status"), [(99, 200), (100, 400), (900, 400), (100_000, 400)])
async def test_deep_metadata_is_stored_or_refused(api: Api, depth: int, status: int) -> None:
    """Metadata of a hundred levels is stored; deeper metadata, or a NUL in it, is refused."""
    content = b'{"metadata":{"a":' + b"[" * depth + b"1" + b"]" * depth + b"}}"
    headers = {"Content-Type": "application/json"}
    answer = await api.client.post("/v1/documents/doc_1", content=content, headers=headers)
    assert answer.status_code == status
    assert "nested" in answer.text or status == 200
    hidden = content.replace(b"1", b'"\\u0000"')
    refused = await api.client.post("/v1/documents/doc_1", content=hidden, headers=headers)
    assert refused.status_code == 400


async def test_of_two_updates_with_one_revision_one_wins(
    api: Api, connection: asyncpg.Connection
) -> None:
    """Of two updates with one revision one is written, and the other is 412."""
    answers = await asyncio.gather(
        *(
            update(api, {"display_name": name, "resources": {"set": [name]}}, If_Match='"1"')
            for name in ("ship_1", "ship_2")
        )
    )
    assert sorted(answer.status_code for answer in answers) == [200, 412]
    (winner,) = [answer.json() for answer in answers if answer.status_code == 200]
    (loser,) = [answer.json() for answer in answers if answer.status_code == 412]
    assert loser["code"] == "precondition_failed"
    assert await linked(api) == [("shipment", winner["data"]["display_name"], None)]
    await check_outbox(connection)


@pytest.mark.parametrize("tags", ['"1"', '"0", "1"', 'W/"1"', "*", ' "1" '])
async def test_matching_tag_lets_the_update_through(api: Api, tags: str) -> None:
    """If-Match may be a list of tags, or `*`."""
    assert (await update(api, {"category": "x"}, If_Match=tags)).status_code == 200


async def test_every_write_to_one_document_takes_if_match(api: Api) -> None:
    """Each write is refused at another revision, and executed at this one."""
    deal = {"entity_type": "deal", "entity_id": "deal_1"}
    link_id = (await api.client.post("/v1/documents/doc_1/link", json=deal)).json()["data"][
        "link_id"
    ]
    calls: list[tuple[str, str, object]] = [
        ("POST", "/link", {"entity_type": "deal", "entity_id": "deal_2"}),
        ("POST", "/links", {"resource_id": "ship_1"}),
        ("PATCH", f"/links/{link_id}", {"role": "signed"}),
        ("DELETE", f"/links/{link_id}", None),
        ("DELETE", "/links?resource_id=ship_1", None),
        ("PUT", "", {}),
        ("POST", "", {"category": "x"}),
        ("DELETE", "", None),
        ("POST", "/restore", None),
    ]
    revision = 2
    for method, path, body in calls:
        url = f"/v1/documents/doc_1{path}"
        for tag, expected in ((revision - 1, {412}), (revision, {200, 201})):
            headers = {"If-Match": f'"{tag}"'}
            answer = await api.client.request(method, url, json=body, headers=headers)
            assert answer.status_code in expected, (method, path, answer.text)
        revision += (method, path) != ("PUT", "")  # which changes nothing here
