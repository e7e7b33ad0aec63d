"""Erasing: events first, then the rows; what is made again continues."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

import asyncpg
import pytest

from service.core.errors import Unavailable
from service.core.values import EntityKey
from service.store.database import Database
from service.store.erasing import rows, workspaces
from service.store.erasing.erase import Eraser, erasing
from service.store.erasing.rows import Removed
from service.store.erasing.workspaces import delete_workspace, find_workspace
from tests.support.faults.commit import CommitProxy
from tests.support.service.api import Api
from tests.support.service.large import fill
from tests.support.service.locks import locked, waiting
from tests.support.topic.subscriber import check_outbox, read_outbox
from tests.support.waiting import until

COUNT = """
SELECT
    (SELECT count(*) FROM documents),
    (SELECT count(*) FROM document_links),
    (SELECT count(*) FROM entities)
"""
REPLIES = "SELECT count(*) FROM idempotency_keys"
WORKSPACE = "SELECT id::text FROM workspaces WHERE name = 'test'"
DOCUMENT = "SELECT version, revision FROM documents WHERE id = 'doc_1'"


@pytest.fixture
async def workspace(api: Api, connection: asyncpg.Connection) -> str:  # noqa: ARG001 - it makes the workspace
    """Return the id of the workspace of the service's caller."""
    found: str = await connection.fetchval(WORKSPACE)
    return found


@asynccontextmanager
async def erasing_from(dsn: str, workspace: str) -> AsyncIterator[Eraser]:
    """Yield an eraser with a pool of its own."""
    async with Database(dsn, pool_size=10) as pool, erasing(pool, workspace) as eraser:
        yield eraser


@pytest.fixture
async def eraser(database: str, workspace: str) -> AsyncIterator[Eraser]:
    """Yield an eraser of the workspace."""
    async with erasing_from(database, workspace) as eraser:
        yield eraser


def keyed(key: str) -> dict[str, str]:
    """Return the header with an Idempotency-Key."""
    return {"Idempotency-Key": key}


async def counts(connection: asyncpg.Connection) -> tuple[int, int, int]:
    """Return the numbers of documents, links and entities."""
    documents, links, entities = (await connection.fetch(COUNT))[0]
    return documents, links, entities


async def test_a_document_is_erased_with_its_events(
    api: Api, eraser: Eraser, connection: asyncpg.Connection
) -> None:
    """The events of the deletion come from `operator`, no row is left, and a repetition changes nothing."""
    for resource in ("ship_1", "item_1"):
        await api.add("doc_1", resource)
    await eraser.document("doc_1")
    await eraser.document("doc_1")
    await eraser.document("doc_unknown")
    assert eraser.removed == Removed(documents=1, links=2)
    assert await counts(connection) == (19, 0, 60)
    data = [json.loads(value)["data"] for value in await read_outbox(connection)]
    assert [each["document_version"] for each in data] == [1, 2, 3, 4]
    assert {(each["cause"], each["actor"]) for each in data[2:]} == {
        ("document_deleted", "operator")
    }
    assert (await check_outbox(connection)).active == set()
    assert (await api.client.get("/v1/documents/doc_1")).status_code == 404


async def test_an_erased_document_continues_its_version_and_revision(
    api: Api, eraser: Eraser, connection: asyncpg.Connection
) -> None:
    """A document that is made again has a higher revision, its events higher versions, its link a new id."""
    old = (await api.add("doc_1", "ship_1")).json()["data"]["id"]
    ((_, revision),) = await connection.fetch(DOCUMENT)
    await eraser.document("doc_1")
    assert (await api.client.post("/v1/documents/doc_1/restore")).status_code == 404
    body = {"id": "doc_1", "resources": ["ship_1"]}
    made = await api.client.post("/v1/documents", json=body)
    assert made.status_code == 201
    assert made.json()["data"]["linked_entities"][0]["link_id"] != old
    ((version_after, revision_after),) = await connection.fetch(DOCUMENT)
    assert version_after == 3
    assert revision_after > revision
    await check_outbox(connection)


async def test_stored_replies_that_mention_what_is_erased_are_removed(
    api: Api, eraser: Eraser, workspace: str, connection: asyncpg.Connection
) -> None:
    """They are not replayed: a repeated call is a new one. Replies about other ids stay, however alike."""
    secret = {"id": "doc_30", "display_name": "secret"}
    await api.client.post("/v1/documents", json=secret, headers=keyed("create"))
    operations = [{"op": "unlink", "document_id": "doc_30", "resource_id": "ship_2"}]
    batch = {"operations": operations}
    answer = await api.client.post("/v1/links/batch", json=batch, headers=keyed("batch"))
    assert "'doc_30'" in answer.text or '"doc_30"' in answer.text
    await api.add("doc_3", "ship_1", keyed("other"))
    await eraser.document("doc_30")
    assert eraser.removed == Removed(documents=1, replies=2)
    assert (await api.add("doc_3", "ship_1", keyed("other"))).headers[
        "Idempotent-Replayed"
    ] == "true"
    await api.add("doc_3", "item_1", keyed("entity"))
    await eraser.entity(EntityKey(workspace, "item", "item_1"))
    assert await connection.fetchval(REPLIES) == 1
    again = await api.client.post("/v1/documents", json=secret, headers=keyed("create"))
    assert again.status_code == 201
    assert "Idempotent-Replayed" not in again.headers


async def test_an_entity_is_erased_with_its_removed_links(
    api: Api, eraser: Eraser, workspace: str, connection: asyncpg.Connection
) -> None:
    """Active links are unlinked with events, removed ones of living documents go too, others stay."""
    for document in ("doc_1", "doc_2", "doc_3"):
        await api.add(document, "ship_1")
        await api.add(document, "ship_2")
    await api.unlink("doc_3", (await api.links("doc_3"))[0]["id"])
    await eraser.entity(EntityKey(workspace, "shipment", "ship_1"))
    assert eraser.removed == Removed(links=3, entities=1)
    assert await counts(connection) == (20, 3, 59)
    assert (await api.add("doc_1", "ship_1")).status_code == 404
    await check_outbox(connection)


async def test_the_removal_of_an_entitys_links_waits_for_writers(
    api: Api, eraser: Eraser, workspace: str, database: str, connection: asyncpg.Connection
) -> None:
    """A document that a writer has locked is waited for, not left out."""
    link = (await api.add("doc_1", "ship_1")).json()["data"]["id"]
    await api.unlink("doc_1", link)
    async with locked(database, "doc_1") as session:
        task = asyncio.create_task(eraser.entity(EntityKey(workspace, "shipment", "ship_1")))
        await until(lambda: waiting(connection, 1))
        await session.execute("COMMIT")
        await task
    assert eraser.removed == Removed(links=1, entities=1)


async def test_an_entity_that_a_caller_changes_meanwhile_is_removed(
    eraser: Eraser, database: str, connection: asyncpg.Connection
) -> None:
    """A row that another transaction has locked and then marked as deleted is removed, not left out."""
    session = await asyncpg.connect(database)
    await session.execute("BEGIN; UPDATE entities SET deleted_at = now() WHERE id = 'ship_1'")
    task = asyncio.create_task(eraser.everything(lambda _: None))
    await until(lambda: waiting(connection, 1))
    await session.execute("COMMIT")
    await session.close()
    await task
    assert await counts(connection) == (0, 0, 0)


async def test_an_interrupted_deletion_of_an_entity_is_completed(
    api: Api, eraser: Eraser, workspace: str, connection: asyncpg.Connection
) -> None:
    """An entity that was only marked as deleted is unlinked with events, and removed."""
    for document in ("doc_1", "doc_2"):
        await api.add(document, "ship_1")
    await connection.execute("UPDATE entities SET deleted_at = now() WHERE id = 'ship_1'")
    await eraser.entity(EntityKey(workspace, "shipment", "ship_1"))
    assert eraser.removed == Removed(links=2, entities=1)
    data = [json.loads(value)["data"] for value in await read_outbox(connection)]
    assert [each["cause"] for each in data[2:]] == ["entity_deleted"] * 2
    await check_outbox(connection)


async def test_an_entity_is_deleted_and_erased_at_once(
    api: Api, eraser: Eraser, workspace: str, connection: asyncpg.Connection
) -> None:
    """A caller's deletion beside the erasure is answered 200 or 404, and each link has one event."""
    for number in range(1, 21):
        await api.add(f"doc_{number}", "ship_1")
    answer, _ = await asyncio.gather(
        api.client.delete("/v1/entities/shipment/ship_1"),
        eraser.entity(EntityKey(workspace, "shipment", "ship_1")),
    )
    assert answer.status_code in {200, 404}, answer.text
    assert await counts(connection) == (20, 0, 59)
    assert len(await read_outbox(connection)) == 40
    await check_outbox(connection)


async def test_a_document_with_many_links_is_erased_in_several_transactions(
    eraser: Eraser, connection: asyncpg.Connection
) -> None:
    """No transaction removes more than MAX_LINKS_REMOVED links, and the document goes last."""
    await fill(connection, "doc_large", 2 * rows.MAX_LINKS_REMOVED + 1)
    await connection.execute(
        "CREATE TABLE removed (xid xid8, links bigint);"
        "CREATE FUNCTION note() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN "
        "INSERT INTO removed SELECT pg_current_xact_id(), count(*) FROM gone; RETURN NULL; END $$;"
        "CREATE TRIGGER note AFTER DELETE ON document_links REFERENCING OLD TABLE AS gone "
        "FOR EACH STATEMENT EXECUTE FUNCTION note()"
    )
    await eraser.document("doc_large")
    assert eraser.removed == Removed(documents=1, links=2 * rows.MAX_LINKS_REMOVED + 1)
    most = await connection.fetchval(
        "SELECT max(n) FROM (SELECT sum(links) AS n FROM removed GROUP BY xid) AS each"
    )
    assert most == rows.MAX_LINKS_REMOVED
    assert len(await read_outbox(connection)) == 2 * rows.MAX_LINKS_REMOVED + 1


async def test_a_document_is_erased_beside_its_writers(
    api: Api, eraser: Eraser, connection: asyncpg.Connection
) -> None:
    """Callers that link, put and unlink meanwhile get no error but 404, and the events tell the rows."""
    erased = asyncio.Event()

    async def write(resource: str) -> None:
        while not erased.is_set():
            made = await api.client.put("/v1/documents/doc_1", json={})
            linked = await api.add("doc_1", resource)
            assert {made.status_code, linked.status_code} <= {200, 201, 404}, (
                made.text,
                linked.text,
            )

    writers = [asyncio.create_task(write(f"ship_{number}")) for number in range(1, 4)]
    for _ in range(5):
        with suppress(Unavailable):  # made again and again: `run the command again`
            await eraser.document("doc_1")
    erased.set()
    await asyncio.gather(*writers)
    await eraser.document("doc_1")
    assert await counts(connection) == (19, 0, 60)
    assert (await check_outbox(connection)).active == set()


async def test_a_commit_whose_answer_is_lost_is_not_repeated(
    api: Api, workspace: str, database: str, connection: asyncpg.Connection
) -> None:
    """The deletion's COMMIT takes effect and its answer is lost: its events are emitted once."""
    for resource in ("ship_1", "item_1"):
        await api.add("doc_1", resource)
    async with CommitProxy(database) as proxy, erasing_from(proxy.dsn, workspace) as eraser:
        proxy.break_next("answer lost")
        await eraser.document("doc_1")
        assert (proxy.broken, proxy.carried_out) == (1, 1)
    assert eraser.removed == Removed(documents=1, links=2)
    assert len(await read_outbox(connection)) == 4
    await check_outbox(connection)


async def test_a_workspace_is_erased_beside_writers(
    api: Api, eraser: Eraser, connection: asyncpg.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Links that are made meanwhile are erased too or refused, and the events tell the rows."""
    monkeypatch.setattr(rows, "DEAD_LINKS", 0)  # so document_links is vacuumed
    for number in range(1, 21):
        await api.add(f"doc_{number}", "ship_1", keyed(f"key_{number}"))

    async def link() -> None:
        for number in range(1, 21):
            answer = await api.add(f"doc_{number}", f"item_{number}")
            assert answer.status_code in {201, 404}, answer.text

    await asyncio.gather(eraser.everything(lambda _: None), link())
    assert await counts(connection) == (0, 0, 0)
    assert await connection.fetchval("SELECT count(*) FROM erased_documents") == 20
    assert await connection.fetchval(REPLIES) == 0
    assert (await check_outbox(connection)).active == set()


async def test_a_workspace_is_deleted(
    api: Api,
    workspace: str,
    database: str,
    connection: asyncpg.Connection,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """After an interruption a second deletion completes the work, and no row of the workspace is left."""
    await api.add("doc_1", "ship_1", keyed("once"))

    def interrupt(_: object) -> None:
        raise RuntimeError

    async with Database(database, pool_size=10) as pool:
        with suppress(RuntimeError):
            await delete_workspace(pool, workspace, interrupt)
        monkeypatch.setattr(workspaces, "SETTLE_S", 0.0)
        assert await find_workspace(pool, workspace) == (workspace, "test")
        await delete_workspace(pool, workspace, lambda _: None)
        assert await find_workspace(pool, "test") is None
    assert await counts(connection) == (0, 0, 0)
    for table in ("api_keys", "workspaces", "idempotency_keys", "erased_documents"):
        assert await connection.fetchval(f"SELECT count(*) FROM {table}") == 0
