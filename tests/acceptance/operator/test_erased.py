"""Erased and expired rows, seen from the topic: it stays complete, and still gives the active links."""

import asyncpg
import pytest

from service.store.database import Database
from service.store.erasing import expiry
from service.store.erasing.erase import erasing
from service.store.erasing.expiry import Sweeper
from tests.support.relay.worker import Worker
from tests.support.service.api import new_key, seed, serving
from tests.support.topic import topics
from tests.support.topic.subscriber import check

AGE = """
UPDATE document_links SET deleted_at = deleted_at - interval '2 days' WHERE deleted_at IS NOT NULL;
UPDATE documents SET deleted_at = deleted_at - interval '2 days' WHERE deleted_at IS NOT NULL
"""
WORKSPACE = "SELECT id::text FROM workspaces"


async def test_the_topic_gives_the_links_after_rows_were_removed(
    database: str,
    kafka: str,
    topic: str,
    connection: asyncpg.Connection,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """`verify` finds no fault, and a subscriber's links and versions are those of the database."""
    monkeypatch.setattr(expiry, "BATCH_PAUSE_S", 0.0)
    await new_key(database)
    await seed(connection, 4, 2)
    async with serving(database) as api, Database(database, pool_size=10) as pool:
        for document in ("doc_1", "doc_2", "doc_3"):
            for resource in ("ship_1", "ship_2"):
                await api.add(document, resource)
        await api.client.delete("/v1/documents/doc_2")
        await api.unlink("doc_3", (await api.links("doc_3"))[0]["id"])
        await connection.execute(AGE)
        while await Sweeper(pool, 1).sweep() is not None:
            pass
        async with erasing(pool, await connection.fetchval(WORKSPACE)) as eraser:
            await eraser.document("doc_1")
        for document in ("doc_1", "doc_2", "doc_3"):
            await api.client.put(f"/v1/documents/{document}", json={})
            assert (await api.add(document, "ship_1")).status_code == 201
    with Worker(database, kafka, topic) as worker:
        records = await topics.wait_for_count(kafka, topic, 14)
        assert worker.command("verify", "--all") == 0
    subscriber = await check(connection, [record.value for record in records])
    assert len(subscriber.active) == 4
