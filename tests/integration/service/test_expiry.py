"""Expiry: removed links and deleted documents are removed, beside writers."""

import asyncio
import json
import logging
from collections.abc import AsyncIterator

import asyncpg
import pytest

from service.store.database import Database
from service.store.erasing import expiry
from service.store.erasing.expiry import Sweeper
from service.store.erasing.rows import Removed
from tests.support.service.api import Api, serving
from tests.support.service.locks import locked, waiting
from tests.support.topic.subscriber import check_outbox, read_outbox
from tests.support.waiting import until

KEEP_DAYS = 30
# Like every writer of links, it locks their documents first.
AGE = """
SELECT FROM documents ORDER BY workspace_id, id FOR UPDATE;
UPDATE document_links SET deleted_at = deleted_at - interval '31 days' WHERE deleted_at IS NOT NULL;
UPDATE documents SET deleted_at = deleted_at - interval '31 days' WHERE deleted_at IS NOT NULL
"""
REMOVED_LINKS = "SELECT count(*) FROM document_links WHERE deleted_at IS NOT NULL"
DOCUMENT = "SELECT version, revision FROM documents WHERE id = 'doc_1'"
NEXT = "UPDATE expiry_sweep SET next_at = now()"


@pytest.fixture
async def sweeper(database: str, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Sweeper]:
    """Yield a sweeper with a pool of its own, without a pause between batches."""
    monkeypatch.setattr(expiry, "BATCH_PAUSE_S", 0.0)
    async with Database(database, pool_size=2) as pool:
        yield Sweeper(pool, KEEP_DAYS)


async def whole_sweep(sweeper: Sweeper, connection: asyncpg.Connection) -> Removed:
    """Sweep once over all documents, and return what that has removed."""
    await connection.execute(NEXT)
    while (swept := await sweeper.sweep()) is not None:
        if swept.whole is not None:
            return swept.whole
    raise AssertionError("another sweep is in progress")


async def counters(connection: asyncpg.Connection) -> tuple[int, int]:
    """Return version and revision of doc_1."""
    row = await connection.fetchrow(DOCUMENT)
    assert row is not None
    return row["version"], row["revision"]


async def unlinked(api: Api, resource: str, document: str = "doc_1") -> str:
    """Link the document to the resource and unlink it; return the link's id."""
    link_id: str = (await api.add(document, resource)).json()["data"]["id"]
    assert (await api.unlink(document, link_id)).status_code == 200
    return link_id


async def test_an_expired_link_is_a_new_link_when_it_is_made_again(
    api: Api, sweeper: Sweeper, connection: asyncpg.Connection
) -> None:
    """An expired link that is made again has a new id, and its document's version continues."""
    old = await unlinked(api, "ship_1")
    await connection.execute(AGE)
    kept = await unlinked(api, "ship_2")
    assert await whole_sweep(sweeper, connection) == Removed(links=1)
    new = (await api.add("doc_1", "ship_1")).json()["data"]["id"]
    assert new != old
    assert (await api.add("doc_1", "ship_2")).json()["data"]["id"] == kept
    events = [json.loads(value) for value in await read_outbox(connection)]
    assert [event["data"]["document_version"] for event in events] == [1, 2, 3, 4, 5, 6]
    assert [event["type"].partition(".")[2] for event in events[4:]] == ["linked", "restored"]
    await check_outbox(connection)


@pytest.mark.parametrize("method", ["PUT", "POST"])
async def test_an_expired_document_continues_its_version_and_revision(
    api: Api, sweeper: Sweeper, connection: asyncpg.Connection, method: str
) -> None:
    """A document that is made again with the id of an expired one continues, as often as that happens."""
    url = "/v1/documents" if method == "POST" else "/v1/documents/doc_1"
    await api.add("doc_1", "ship_1")
    for _ in range(2):
        await api.client.delete("/v1/documents/doc_1")
        version, revision = await counters(connection)
        await connection.execute(AGE)
        assert await whole_sweep(sweeper, connection) == Removed(documents=1, links=1)
        assert (await api.client.post("/v1/documents/doc_1/restore")).status_code == 404
        made = await api.client.request(method, url, json={"id": "doc_1", "resources": ["ship_1"]})
        assert (made.status_code, made.headers["ETag"]) == (201, f'"{revision + 1}"')
        assert await counters(connection) == (version + 1, revision + 1)
    await check_outbox(connection)


async def test_a_document_that_is_removed_while_a_put_waits_is_made_again(
    api: Api, connection: asyncpg.Connection, database: str
) -> None:
    """A put that waits for the lock of a row that is then removed makes the document again."""
    await api.add("doc_1", "ship_1")
    await api.client.delete("/v1/documents/doc_1")
    version, revision = await counters(connection)
    async with locked(database, "doc_1") as session:
        put = asyncio.create_task(api.client.put("/v1/documents/doc_1", json={}))
        await until(lambda: waiting(connection, 1))
        await session.execute(
            "DELETE FROM document_links WHERE document_id = 'doc_1';"
            "INSERT INTO erased_documents SELECT workspace_id, sha256('doc_1'), version, revision"
            " FROM documents WHERE id = 'doc_1';"
            "DELETE FROM documents WHERE id = 'doc_1'; COMMIT"
        )
        answer = await put
    assert answer.status_code == 201, answer.text
    assert await counters(connection) == (version, revision + 1)


async def test_an_insert_that_waits_for_the_removal_continues_the_version(
    api: Api, connection: asyncpg.Connection, database: str
) -> None:
    """An INSERT that waits for the transaction that removes the row sees its tombstone, as of 0.1, too."""
    await api.client.delete("/v1/documents/doc_2")
    async with locked(database, "doc_2") as session:
        await session.execute(
            "WITH d AS (DELETE FROM documents WHERE id = 'doc_2' RETURNING workspace_id)"
            "INSERT INTO erased_documents SELECT workspace_id, sha256('doc_2'), 7, 9 FROM d"
        )
        insert = asyncio.create_task(
            connection.execute(
                "INSERT INTO documents (workspace_id, id) SELECT id, 'doc_2' FROM workspaces "
                "ON CONFLICT DO NOTHING"
            )
        )
        await until(lambda: waiting(session, 1))
        await session.execute("COMMIT")
        await insert
    row = await connection.fetchrow("SELECT version, revision FROM documents WHERE id = 'doc_2'")
    assert tuple(row or ()) == (7, 10)


async def test_a_sweep_waits_for_no_lock(
    api: Api, sweeper: Sweeper, connection: asyncpg.Connection, database: str
) -> None:
    """A document that a writer has locked is left to the next sweep."""
    await unlinked(api, "ship_1")
    await connection.execute(AGE)
    async with locked(database, "doc_1"):
        assert await whole_sweep(sweeper, connection) == Removed()
    assert await whole_sweep(sweeper, connection) == Removed(links=1)


async def test_one_process_sweeps_at_a_time_batch_by_batch(
    api: Api, sweeper: Sweeper, connection: asyncpg.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Small batches remove everything that has expired, and a second process finds no sweep to do."""
    monkeypatch.setattr(expiry, "BATCH", 3)
    monkeypatch.setattr("service.store.erasing.rows.MAX_LINKS_REMOVED", 2)
    for number in range(1, 6):
        await unlinked(api, f"ship_{number}")
    await api.client.delete("/v1/documents/doc_20")
    await connection.execute(AGE)
    async with connection.transaction():
        await connection.execute("SELECT FROM expiry_sweep FOR UPDATE")
        assert await sweeper.sweep() is None
    assert await whole_sweep(sweeper, connection) == Removed(documents=1, links=5)
    assert await sweeper.sweep() is None


async def test_links_are_written_beside_sweeps(
    api: Api, sweeper: Sweeper, connection: asyncpg.Connection
) -> None:
    """Links and batches that are written again and again while others expire lose no row and no event."""
    writing = True

    async def age_and_sweep() -> None:
        while writing:
            await connection.execute(AGE)
            await whole_sweep(sweeper, connection)

    async def batch(op: str) -> None:
        operations = [
            {"op": op, "document_id": f"doc_{n}", "resource_id": "item_1"} for n in range(1, 9)
        ]
        answer = await api.client.post("/v1/links/batch", json={"operations": operations})
        statuses = {each["status"] for each in answer.json()["data"]}
        assert statuses <= ({201, 200} if op == "link" else {200}), answer.text

    sweeping = asyncio.create_task(age_and_sweep())
    for _ in range(15):
        ids, _ = await asyncio.gather(
            asyncio.gather(*(unlinked(api, f"ship_{n}") for n in range(1, 5))), batch("link")
        )
        assert len(set(ids)) == len(ids)
        await batch("unlink")
    await api.add("doc_1", "ship_1")
    writing = False
    await sweeping
    await check_outbox(connection)


async def test_the_setting_starts_the_sweep(
    database: str,
    connection: asyncpg.Connection,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """With LINKS_KEEP_DELETED_DAYS the service removes what has expired, counts it and logs the sweep."""
    monkeypatch.setattr(expiry, "POLL_S", 0.05)
    caplog.set_level(logging.INFO, logger="service")
    async with serving(database, LINKS_KEEP_DELETED_DAYS="30") as api:
        await api.client.put("/v1/entities/shipment/ship_1")
        await api.client.put("/v1/documents/doc_1", json={})
        await unlinked(api, "ship_1")
        await connection.execute(AGE)
        await connection.execute(NEXT)

        async def finished() -> bool:
            metrics = (await api.client.get("/metrics")).text
            return "links_expiry_finished_timestamp_seconds 0.0" not in metrics and (
                'links_expired_rows_total{table="document_links"} 1.0' in metrics
            )

        await until(finished)
    assert await connection.fetchval(REMOVED_LINKS) == 0
    assert "expiry.swept" in {record.message for record in caplog.records}


async def test_a_failing_sweep_is_logged_once_and_goes_on(
    api: Api,
    database: str,
    connection: asyncpg.Connection,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """An error of Postgres is logged once however often it comes; the sweep is retried until it succeeds."""
    monkeypatch.setattr(expiry, "POLL_S", 0.0)
    await unlinked(api, "ship_1")
    await connection.execute(AGE)
    await connection.execute("ALTER TABLE expiry_sweep RENAME COLUMN next_at TO once")
    tries = 0
    async with Database(database, pool_size=1) as pool:
        sweeper = Sweeper(pool, KEEP_DAYS)
        sweep = sweeper.sweep

        async def counted() -> object:
            nonlocal tries
            tries += 1
            return await sweep()

        monkeypatch.setattr(sweeper, "sweep", counted)
        task = asyncio.create_task(sweeper.run())

        async def failed_often() -> bool:
            return tries > 5

        await until(failed_often)
        await connection.execute("ALTER TABLE expiry_sweep RENAME COLUMN once TO next_at")

        async def removed() -> bool:
            return bool(await connection.fetchval(REMOVED_LINKS) == 0)

        await until(removed)
        task.cancel()
        await asyncio.wait({task})
    assert [record.message for record in caplog.records].count("expiry.failed") == 1
