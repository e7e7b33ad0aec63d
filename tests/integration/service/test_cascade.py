"""Other transactions on the documents of a deleted entity, between the steps of a chunk."""

import asyncio
import json
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import asyncpg
import httpx
import pytest

from service.store.database import Database
from service.store.erasing.erase import erasing
from service.store.reading import FIRST
from service.store.writing import cascade
from tests.support.service.api import Api
from tests.support.service.locks import locked, waiting
from tests.support.topic.subscriber import check_outbox, read_outbox
from tests.support.waiting import until

SHIP = "/v1/entities/shipment/ship_1"
CHUNK = 10
DOCUMENTS = [f"doc_{number}" for number in range(1, CHUNK + 3)]
"""The documents of the first chunk, and two more, whose links the last transaction removes."""

ACTIVE = """
SELECT document_id
FROM document_links
WHERE entity_id = 'ship_1' AND deleted_at IS NULL
ORDER BY id
"""
DEFINITION = "SELECT pg_get_functiondef('unlink_entity'::regproc)"
FIND = "l.id > after AND"
PAUSE = 8
"""The advisory lock that the sessions of paused chunks wait for."""
PAUSED = """
SELECT pid
FROM pg_locks
WHERE locktype = 'advisory' AND objid = 8 AND NOT granted
    AND database = (SELECT oid FROM pg_database WHERE datname = current_database())
"""
LAST = "SELECT id FROM document_links ORDER BY id DESC LIMIT 1"
UNLINK = """
SELECT u.*
FROM workspaces AS w, unlink_entity(w.id, 'shipment', 'ship_1', $1, $2) AS u
"""
END = "SELECT pg_terminate_backend($1)"


@pytest.fixture(autouse=True)
async def linked(api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    """Link the documents to ship_1, one after the other, and let a chunk have ten links."""
    monkeypatch.setattr(cascade, "CASCADE_CHUNK", CHUNK)
    for document in DOCUMENTS:
        assert (await api.add(document, "ship_1")).status_code == 201


async def active(connection: asyncpg.Connection) -> list[str]:
    """Return the documents linked to ship_1, in the order of their links."""
    return [row["document_id"] for row in await connection.fetch(ACTIVE)]


async def removals(connection: asyncpg.Connection) -> list[dict[str, Any]]:
    """Return the data of the events of removed links, after a check of all events."""
    await check_outbox(connection)
    events = [json.loads(value) for value in await read_outbox(connection)]
    return [event["data"] for event in events if event["type"] == "document.unlinked"]


def causes(removed: list[dict[str, Any]]) -> dict[str, str]:
    """Return the cause of each document's removed link; each link must have been removed once."""
    found = Counter(data["document_id"] for data in removed)
    assert set(found.values()) == {1}, found
    return {data["document_id"]: data["cause"] for data in removed}


@asynccontextmanager
async def paused(
    api: Api, database: str, connection: asyncpg.Connection, deletions: int = 1
) -> AsyncIterator[list[asyncio.Task[httpx.Response]]]:
    """Yield deletions whose first chunk has a snapshot and no lock yet; then let them go on.

    A wait for an advisory lock is added to the statement that locks the documents. It is evaluated once the
    statement reads the first link.
    """
    definition: str = await connection.fetchval(DEFINITION)
    assert definition.count(FIND) == 1
    wait = f"pg_advisory_xact_lock_shared({PAUSE}) IS NOT NULL AND {FIND}"
    await connection.execute(definition.replace(FIND, wait))
    gate = await asyncpg.connect(database)
    await gate.execute("SELECT pg_advisory_lock($1)", PAUSE)
    calls = [asyncio.create_task(api.client.delete(SHIP)) for _ in range(deletions)]

    async def all_wait() -> bool:
        return len(await connection.fetch(PAUSED)) == deletions

    try:
        await until(all_wait)
        yield calls
    finally:
        await gate.close()
        await asyncio.wait(calls)


async def test_a_locked_document_is_skipped(
    api: Api, database: str, connection: asyncpg.Connection
) -> None:
    """The links of a chunk's other documents are removed while one is locked; then that of this one."""
    async with locked(database, "doc_3"):
        deletion = asyncio.create_task(api.client.delete(SHIP))

        async def only_the_rest() -> bool:
            return await active(connection) == ["doc_3", "doc_11", "doc_12"]

        await until(only_the_rest)
        await until(lambda: waiting(connection))
        assert (await api.add("doc_4", "ship_2")).status_code == 201  # it is not locked
    assert (await deletion).status_code == 200
    assert causes(await removals(connection)) == dict.fromkeys(DOCUMENTS, "entity_deleted")


async def test_changes_between_the_snapshot_and_the_locks(
    api: Api, database: str, connection: asyncpg.Connection
) -> None:
    """Each link is removed once, as the transaction left it that changed it after the chunk's snapshot."""
    links = {document: (await api.links(document))[0]["id"] for document in DOCUMENTS}
    async with paused(api, database, connection) as (deletion,):
        await api.unlink("doc_3", links["doc_3"])
        role = {"role": "signed"}
        await api.client.patch(f"/v1/documents/doc_4/links/{links['doc_4']}", json=role)
        await api.client.post("/v1/documents/doc_5", json={"display_name": "Contract"})
        await api.client.delete("/v1/documents/doc_6")
        await api.client.delete("/v1/documents/doc_7")
        await api.client.post("/v1/documents/doc_7/restore")
        await api.add("doc_8", "ship_2")
        assert await active(connection) == [
            document for document in DOCUMENTS if document not in {"doc_3", "doc_6", "doc_7"}
        ]
    assert (await deletion).status_code == 200
    assert await active(connection) == []
    removed = await removals(connection)
    others = {"doc_3": "unlink", "doc_6": "document_deleted", "doc_7": "document_deleted"}
    assert causes(removed) == dict.fromkeys(DOCUMENTS, "entity_deleted") | others
    roles = {data["document_id"]: data["link"]["role"] for data in removed}
    assert roles == dict.fromkeys(DOCUMENTS) | {"doc_4": "signed"}
    assert [link["resource"]["id"] for link in await api.links("doc_8")] == ["ship_2"]
    assert (await api.client.get("/v1/documents/doc_5")).json()["data"]["display_name"]


async def test_a_document_is_erased_between_the_snapshot_and_the_locks(
    api: Api, database: str, connection: asyncpg.Connection
) -> None:
    """A document whose rows are gone has the events of its own deletion only."""
    workspace = str(await connection.fetchval("SELECT id FROM workspaces"))
    async with (
        Database(database, pool_size=2) as pool,
        erasing(pool, workspace) as eraser,
        paused(api, database, connection) as (deletion,),
    ):
        await eraser.document("doc_3")
        assert (eraser.removed.documents, eraser.removed.links) == (1, 1)
    assert (await deletion).status_code == 200
    assert await active(connection) == []
    expected = dict.fromkeys(DOCUMENTS, "entity_deleted") | {"doc_3": "document_deleted"}
    assert causes(await removals(connection)) == expected


async def test_the_entity_is_registered_again_by_another_call(
    api: Api,
    database: str,
    connection: asyncpg.Connection,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A chunk removes no link of an entity that was registered and linked again after its snapshot."""
    async with paused(api, database, connection) as (deletion,):
        monkeypatch.setattr(
            cascade, "CASCADE_CHUNK", len(DOCUMENTS)
        )  # no chunk that would be paused
        assert (await api.client.put(SHIP)).status_code == 201
        assert (await api.add("doc_1", "ship_1")).json()["message"] == "Link restored"
    assert (await deletion).status_code == 200  # it has marked the entity
    assert await active(connection) == ["doc_1"]
    assert causes(await removals(connection)) == dict.fromkeys(DOCUMENTS, "entity_deleted")


async def test_an_interrupted_chunk_is_written_once(
    api: Api, database: str, connection: asyncpg.Connection
) -> None:
    """A chunk whose session ends is tried again on another one, and has one event for each link."""
    async with paused(api, database, connection) as (deletion,):
        ((session,),) = await connection.fetch(PAUSED)
        assert await connection.fetchval(END, session)

        async def tried_again() -> bool:
            return bool(await connection.fetchval(f"{PAUSED} AND pid <> $1", session))

        await until(tried_again)
    assert (await deletion).status_code == 200
    assert causes(await removals(connection)) == dict.fromkeys(DOCUMENTS, "entity_deleted")


async def test_two_deletions_of_one_chunk(
    api: Api, database: str, connection: asyncpg.Connection
) -> None:
    """Two calls that have read the same chunk remove each link once; one that removed nothing may be 404."""
    async with paused(api, database, connection, deletions=2) as calls:
        pass
    statuses = {(await call).status_code for call in calls}
    assert {200} <= statuses <= {200, 404}
    assert await active(connection) == []
    assert causes(await removals(connection)) == dict.fromkeys(DOCUMENTS, "entity_deleted")


async def test_links_of_a_registered_entity_stay(api: Api, connection: asyncpg.Connection) -> None:
    """A chunk that begins after the entity was registered again removes nothing."""
    last = await connection.fetchval(LAST)
    assert (await connection.fetch(UNLINK, FIRST, last)) == []
    assert await active(connection) == DOCUMENTS
    assert await removals(connection) == []
    assert (await api.client.delete(SHIP)).status_code == 200


async def test_the_event_is_that_of_any_other_removal(
    api: Api, connection: asyncpg.Connection
) -> None:
    """The events of a chunk and of the last links differ in ids, versions and times only."""
    await api.client.delete(SHIP)
    removed = await removals(connection)
    for data in removed:
        assert data["link"].pop("deleted_at") > data["link"].pop("created_at")
        del data["link"]["id"], data["document_id"]
    assert removed[1:] == removed[:-1]
    assert len(removed) == len(DOCUMENTS)
