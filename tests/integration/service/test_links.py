"""The two link APIs: answers, rows and events."""

import asyncpg

from tests.support.service.api import Api, Link, new_key, seed, serving
from tests.support.topic.subscriber import check_outbox, read_outbox

DEAL = Link("deal", "deal_1", "signed")


async def test_the_same_triple_is_one_link(api: Api, connection: asyncpg.Connection) -> None:
    """Linking again returns the same link, with its role unchanged, and writes no event."""
    first = await api.link("doc_1", DEAL)
    again = await api.link("doc_1", DEAL._replace(role="draft"))
    assert (first.status_code, again.status_code) == (201, 200)
    assert first.json() == again.json()
    assert len(await read_outbox(connection)) == 1


async def test_restoring_keeps_the_link(api: Api, connection: asyncpg.Connection) -> None:
    """Linking after unlinking restores the id and created_at, with either call."""
    made = (await api.add("doc_1", "ship_1")).json()["data"]
    assert (await api.unlink("doc_1", made["id"])).status_code == 200
    restored = await api.add("doc_1", "ship_1")
    assert restored.status_code == 200
    assert restored.json() == {"data": made | {"restored": True}, "message": "Link restored"}
    subscriber = await check_outbox(connection)
    assert list(subscriber.versions.values()) == [3]


async def test_restoring_takes_the_new_role_if_one_is_given(api: Api) -> None:
    """A restored link keeps its role, unless the call has another one."""
    link_id = (await api.link("doc_1", DEAL)).json()["data"]["link_id"]
    await api.unlink("doc_1", link_id)
    assert (await api.link("doc_1", DEAL._replace(role=None))).json()["data"]["role"] == "signed"
    await api.unlink("doc_1", link_id)
    assert (await api.link("doc_1", DEAL._replace(role="draft"))).json()["data"]["role"] == "draft"


async def test_unlinking_twice_is_not_found(api: Api, connection: asyncpg.Connection) -> None:
    """Unlinking a removed link is 404 and writes no event."""
    link_id = (await api.add("doc_1", "ship_1")).json()["data"]["id"]
    statuses = [(await api.unlink("doc_1", link_id)).status_code for _ in range(2)]
    assert statuses == [200, 404]
    assert len(await read_outbox(connection)) == 2


async def test_a_link_is_removed_with_its_own_document_only(api: Api) -> None:
    """The id of another document's link is 404."""
    link_id = (await api.add("doc_1", "ship_1")).json()["data"]["id"]
    assert (await api.unlink("doc_2", link_id)).status_code == 404
    assert len(await api.links("doc_1")) == 1


async def test_both_forms_of_a_links_id_are_accepted(api: Api) -> None:
    """A link made by `/link` is removed by its TypeID, and returned as a UUID."""
    link_id = (await api.link("doc_1", DEAL)).json()["data"]["link_id"]
    listed = (await api.links("doc_1"))[0]["id"]
    removed = await api.unlink("doc_1", link_id)
    assert removed.json() == {"data": {"id": listed}, "message": "Document unlinked"}


async def test_the_same_id_under_two_types_is_two_links(
    api: Api, connection: asyncpg.Connection
) -> None:
    """Links to the same id with two types are two links."""
    await connection.execute(
        "INSERT INTO entities (workspace_id, type, id) SELECT id, 'task', 'deal_1' FROM workspaces"
    )
    assert (await api.link("doc_1", DEAL)).status_code == 201
    assert (await api.link("doc_1", DEAL._replace(entity_type="task"))).status_code == 201
    assert len(await api.links("doc_1", resource_id="deal_1")) == 2


async def test_ids_that_sql_has_a_meaning_for_are_ids(
    api: Api, connection: asyncpg.Connection
) -> None:
    """A document and an entity with the id NULL are linked, and have events, as all others."""
    for path in ("documents/NULL", "documents/null", "entities/deal/NULL"):
        assert (await api.client.put(f"/v1/{path}", json={})).status_code == 201
    for document in ("NULL", "null"):
        assert (await api.link(document, Link("deal", "NULL", None))).status_code == 201
        assert (await api.links(document))[0]["resource"]["id"] == "NULL"
    await check_outbox(connection)


async def test_list_is_oldest_first_in_pages(api: Api) -> None:
    """Pages are in the order of linking, and have the number of all matching links."""
    for number in range(1, 8):
        await api.add("doc_1", f"ship_{number}")
    await api.link("doc_1", DEAL)
    url = "/v1/documents/doc_1/links?resource_type=shipment&limit=3&page="
    pages = [(await api.client.get(f"{url}{page}")).json() for page in (1, 2, 3, 4)]
    names = [[link["resource"]["id"] for link in page["data"]] for page in pages]
    assert names == [
        ["ship_1", "ship_2", "ship_3"],
        ["ship_4", "ship_5", "ship_6"],
        ["ship_7"],
        [],
    ]
    assert pages[1]["pagination"] == {"page": 2, "limit": 3, "total": 7}
    assert [page["message"] for page in pages] == [
        "3 links retrieved",
        "3 links retrieved",
        "1 link retrieved",
        "0 links retrieved",
    ]


async def test_list_shows_active_links_that_match(api: Api) -> None:
    """Removed links are not listed; the filters work by type, by id, and by both."""
    gone = (await api.add("doc_1", "ship_1")).json()["data"]["id"]
    await api.add("doc_1", "ship_2")
    await api.link("doc_1", DEAL)
    await api.unlink("doc_1", gone)
    assert [link["resource"]["id"] for link in await api.links("doc_1")] == ["ship_2", "deal_1"]
    assert len(await api.links("doc_1", resource_type="deal")) == 1
    assert len(await api.links("doc_1", resource_id="ship_2")) == 1
    assert await api.links("doc_1", resource_id="ship_2", resource_type="deal") == []


async def test_workspaces_do_not_see_each_other(
    api: Api, database: str, connection: asyncpg.Connection
) -> None:
    """Documents, entities and links of another workspace are 404."""
    link_id = (await api.add("doc_1", "ship_1")).json()["data"]["id"]
    key = await new_key(database, "other")
    headers = {"X-API-KEY": key}
    assert (await api.add("doc_1", "ship_1", headers)).status_code == 404
    await seed(connection, 1, 1, "other")
    client = api.client
    other = await client.delete(f"/v1/documents/doc_1/links/{link_id}", headers=headers)
    assert other.status_code == 404
    assert (await api.add("doc_1", "ship_1", headers)).status_code == 201
    assert (await api.add("doc_1", "ship_2", headers)).status_code == 404
    await check_outbox(connection)


async def test_deleted_ends_are_not_found(api: Api, connection: asyncpg.Connection) -> None:
    """Linking to a deleted document or entity is 404."""
    await connection.execute("UPDATE entities SET deleted_at = now() WHERE id = 'ship_1'")
    await connection.execute(
        "UPDATE documents SET deleted_at = now(), deletion_id = gen_random_uuid() WHERE id = 'doc_2'"
    )
    assert (await api.add("doc_1", "ship_1")).status_code == 404
    assert (await api.add("doc_2", "ship_2")).status_code == 404
    assert (await api.client.get("/v1/documents/doc_2/links")).status_code == 404


async def test_policy_any_registers_on_first_use(
    database: str, connection: asyncpg.Connection
) -> None:
    """With LINKS_ENTITY_POLICY=any unknown entities are registered and deleted ones revived."""
    async with serving(database, LINKS_ENTITY_POLICY="any") as api:
        await seed(connection, 1, 1)
        await connection.execute("UPDATE entities SET deleted_at = now() WHERE id = 'ship_1'")
        assert (await api.add("doc_1", "ship_1")).status_code == 201
        assert (await api.add("doc_1", "ship_new")).status_code == 201
        assert (await api.link("doc_1", Link("matter", "m-1"))).status_code == 201
        assert (await api.add("doc_none", "ship_newer")).status_code == 404
    rows = await connection.fetch("SELECT id FROM entities WHERE deleted_at IS NULL ORDER BY id")
    assert [row[0] for row in rows] == ["deal_1", "item_1", "m-1", "ship_1", "ship_new"]
    await check_outbox(connection)
