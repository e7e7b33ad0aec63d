"""LINKS_ENTITY_POLICY=any: entities are registered on first use, and revived."""

import asyncio
from collections.abc import AsyncIterator

import asyncpg
import pytest

from tests.support.service.api import Api, Link, seed, serving
from tests.support.service.rows import everything
from tests.support.topic.subscriber import check_outbox


@pytest.fixture
async def api(database: str, connection: asyncpg.Connection) -> AsyncIterator[Api]:
    """Yield a client of a service with the policy `any`, with doc_1 … doc_20 and no entity."""
    async with serving(database, LINKS_ENTITY_POLICY="any") as api:
        await seed(connection, 20, 0)
        yield api


async def known(connection: asyncpg.Connection) -> list[str]:
    """Return the ids of the entities that are not deleted."""
    rows = await connection.fetch("SELECT id FROM entities WHERE deleted_at IS NULL ORDER BY id")
    return [row[0] for row in rows]


async def test_every_call_registers(api: Api, connection: asyncpg.Connection) -> None:
    """Link, links, create, put, update and batch register the entities that they link to."""
    operation = {"op": "link", "document_id": "doc_1", "resource_id": "ship_6"}
    answers = [
        await api.link("doc_1", Link("deal", "deal_1")),
        await api.add("doc_1", "ship_2"),
        await api.client.post("/v1/documents", json={"resources": ["ship_3"]}),
        await api.client.put("/v1/documents/mine", json={"resources": ["ship_4"]}),
        await api.client.post("/v1/documents/doc_1", json={"resources": {"set": ["ship_5"]}}),
        await api.client.post("/v1/links/batch", json={"operations": [operation], "atomic": True}),
    ]
    assert [answer.status_code for answer in answers] == [201, 201, 201, 201, 200, 200]
    ids = ["deal_1", "ship_2", "ship_3", "ship_4", "ship_5", "ship_6"]
    assert await known(connection) == ids
    await check_outbox(connection)


async def test_use_revives(api: Api, connection: asyncpg.Connection) -> None:
    """Linking a deleted entity revives it, without its other links."""
    await api.add("doc_1", "ship_1")
    await api.add("doc_2", "ship_1")
    await api.client.delete("/v1/entities/shipment/ship_1")
    assert (await api.add("doc_1", "ship_1")).json()["message"] == "Link restored"
    found = await api.client.get("/v1/entities/shipment/ship_1/documents")
    assert [document["id"] for document in found.json()["data"]] == ["doc_1"]
    await check_outbox(connection)


async def test_refused_call_registers_nothing(api: Api, connection: asyncpg.Connection) -> None:
    """An unknown document, a stale revision and a failed atomic batch register no entity."""
    rows = await everything(connection)
    link = {"op": "link", "document_id": "doc_1", "resource_id": "ship_1"}
    operations = [link, {**link, "op": "unlink", "resource_id": "ship_2"}]
    stale = {"If-Match": '"9"'}
    update = {"resources": {"add": ["ship_1"]}}
    answers = [
        await api.add("doc_99", "ship_1"),
        await api.add("doc_1", "ship_1", stale),
        await api.client.post("/v1/documents/doc_99", json=update),
        await api.client.post("/v1/documents/doc_1", json=update, headers=stale),
        await api.client.post("/v1/links/batch", json={"operations": operations, "atomic": True}),
    ]
    assert [answer.status_code for answer in answers] == [404, 412, 404, 412, 404]
    assert await everything(connection) == rows


async def test_unlinking_registers_nothing(api: Api, connection: asyncpg.Connection) -> None:
    """An unlink neither needs nor registers the entity."""
    body = {"resources": {"remove": ["ship_1"]}}
    assert (await api.client.post("/v1/documents/doc_1", json=body)).status_code == 200
    gone = await api.client.delete("/v1/documents/doc_1/links?resource_id=ship_1")
    assert gone.status_code == 404
    assert await known(connection) == []


async def test_restore_does_not_revive(api: Api, connection: asyncpg.Connection) -> None:
    """A restored document has no links to entities that were deleted meanwhile."""
    await api.add("doc_1", "ship_1")
    await api.add("doc_1", "ship_2")
    await api.client.delete("/v1/documents/doc_1")
    await api.client.delete("/v1/entities/shipment/ship_1")
    await api.client.post("/v1/documents/doc_1/restore")
    assert [link["resource"]["id"] for link in await api.links("doc_1")] == ["ship_2"]
    assert await known(connection) == ["ship_2"]


async def test_first_uses_at_once(api: Api, connection: asyncpg.Connection) -> None:
    """Concurrent first uses of an entity by many callers and documents all succeed."""
    answers = await asyncio.gather(
        *(api.add(f"doc_{number % 20 + 1}", "ship_1") for number in range(40)),
        *(
            api.client.post(f"/v1/documents/doc_{n}", json={"resources": {"add": ["ship_1"]}})
            for n in range(1, 21)
        ),
    )
    assert {answer.status_code for answer in answers} <= {200, 201}
    found = await api.client.get("/v1/entities/shipment/ship_1/documents?limit=100")
    assert found.json()["pagination"]["total"] == 20
    await check_outbox(connection)


async def test_half_deleted_entity_is_finished_first(
    api: Api, connection: asyncpg.Connection
) -> None:
    """A half deleted entity cannot be linked before its remaining links are removed."""
    await api.add("doc_1", "ship_1")
    await connection.execute("UPDATE entities SET deleted_at = now() WHERE id = 'ship_1'")
    refused = await api.add("doc_2", "ship_1")
    assert refused.status_code == 404
    assert (await api.client.delete("/v1/entities/shipment/ship_1")).status_code == 200
    assert (await api.add("doc_2", "ship_1")).status_code == 201
    await check_outbox(connection)
