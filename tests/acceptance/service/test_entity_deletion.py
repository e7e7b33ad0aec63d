"""The deletion of an entity with many links: a hundred thousand in `make test-faults`."""

import asyncio
import random
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import asyncpg
import httpx
import pytest

from deploy.local.programs import Program, create_key, service
from service.store.writing.cascade import CASCADE_CHUNK
from tests.support.waiting import FAULT_S, LONG_S, until

LINKS = 100_000 if FAULT_S >= LONG_S else 20_000
SHIP = "/v1/entities/shipment/ship_1"
DELETION_TIMEOUT_S = 240.0
WRITE_S = 15.0
"""The time within which a write is answered (OpenAPI document)."""

SEED = """
SET session_replication_role = replica;
INSERT INTO entities (workspace_id, type, id)
SELECT id, 'shipment', ship FROM workspaces, unnest(ARRAY['ship_1', 'ship_2']) AS ship;
INSERT INTO documents (workspace_id, id)
SELECT w.id, 'doc_' || n FROM workspaces AS w, generate_series(1, {links}) AS n;
INSERT INTO document_links (workspace_id, document_id, id, entity_type, entity_id, created_at)
SELECT w.id, 'doc_' || n, ('0193e6c4-0000-7000-8000-' || lpad(n::text, 12, '0'))::uuid,
    'shipment', 'ship_1', now()
FROM workspaces AS w, generate_series(1, {links}) AS n;
RESET session_replication_role;
ANALYZE documents, document_links, entities;
"""
ACTIVE = "SELECT count(*) FROM document_links WHERE entity_id = 'ship_1' AND deleted_at IS NULL"
REPLIES = "SELECT count(*) FROM idempotency_keys WHERE body <> ''"
LOCK = "SELECT FROM documents WHERE id = $1 AND workspace_id = $2 FOR NO KEY UPDATE"
LARGEST_TRANSACTION = """
SELECT max(events)
FROM (SELECT count(*) AS events FROM outbox GROUP BY xid) AS t
"""
EVENTS = """
SELECT count(*), count(DISTINCT key), min(version), max(version)
FROM outbox, LATERAL (
    SELECT (convert_from(payload, 'UTF8')::json -> 'data' ->> 'document_version')::int AS version
) AS v
"""


@pytest.fixture
async def connection(database: str, connection: asyncpg.Connection) -> asyncpg.Connection:
    """Yield a session on a database with the entity and all its links."""
    create_key(database)
    await connection.execute(SEED.format(links=LINKS))
    return connection


@asynccontextmanager
async def locking(database: str) -> AsyncIterator[list[str]]:
    """Lock one document after the other, as each writer does; yield the documents locked so far."""
    locked: list[str] = []
    stop = asyncio.Event()
    choice = random.Random(7)
    connection = await asyncpg.connect(database)
    workspace = await connection.fetchval("SELECT id FROM workspaces")

    async def lock() -> None:
        while not stop.is_set():
            async with connection.transaction():
                document = f"doc_{choice.randint(1, LINKS)}"
                await connection.execute(LOCK, document, workspace)
                locked.append(document)

    task = asyncio.create_task(lock())
    try:
        yield locked
    finally:
        stop.set()
        await task
        await connection.close()


async def delete(url: str, key: str) -> httpx.Response:
    """Delete the entity; call again with the same Idempotency-Key while there is more to do."""
    headers = {"X-API-KEY": key, "Idempotency-Key": "delete-ship"}
    async with (
        asyncio.timeout(DELETION_TIMEOUT_S),
        httpx.AsyncClient(base_url=url, headers=headers, timeout=WRITE_S) as client,
    ):
        while (answer := await client.delete(SHIP)).status_code == 503:
            assert "call again" in answer.json()["detail"]
        return answer


async def refused_link(url: str, key: str) -> int:
    """Try to link to the entity; return the status."""
    async with httpx.AsyncClient(base_url=url, headers={"X-API-KEY": key}) as client:
        body = {"resource_id": "ship_1"}
        answer = await client.post("/v1/documents/doc_1/links", json=body)
        return answer.status_code


async def start_again(program: Program) -> None:
    """Start the service that was killed; return once it is ready."""
    program.start()

    async def ready() -> bool:
        try:
            async with httpx.AsyncClient(base_url=program.url) as client:
                return (await client.get("/readyz")).is_success
        except httpx.TransportError:
            return False

    await until(ready, timeout_s=60)


@pytest.mark.timeout(600)
async def test_killed_in_the_middle_and_called_again(
    database: str, connection: asyncpg.Connection, tmp_path: Path
) -> None:
    """The deletion refuses new links at once, and finishes when it is called again after a SIGKILL.

    Other writers are not blocked until its end: they wait for one of its transactions, and the number
    of documents that a transaction locks is bounded.
    """
    key = create_key(database)
    with service(database, tmp_path) as program:
        async with locking(database) as locked:
            first = asyncio.create_task(delete(program.url, key))
            await until(lambda: connection.fetchval("SELECT count(*) > 0 FROM outbox"))
            assert await refused_link(program.url, key) == 404

            async def is_begun() -> bool:
                return bool(await connection.fetchval(ACTIVE) < LINKS - 5 * CASCADE_CHUNK)

            await until(is_begun, DELETION_TIMEOUT_S)
            await asyncio.to_thread(program.end, signal.SIGKILL)
            await start_again(program)
            with pytest.raises(httpx.TransportError):
                await first
            assert await connection.fetchval(ACTIVE) > 0
            assert await connection.fetchval(REPLIES) == 0
            assert await refused_link(program.url, key) == 404
            before = len(locked)
            second = await delete(program.url, key)
            assert len(locked) > before
        assert second.status_code == 200, second.text
        again = await delete(program.url, key)
        assert (again.content, again.headers["idempotent-replayed"]) == (second.content, "true")
    assert await connection.fetchval(ACTIVE) == 0
    # One event for each document, although the kill rolled a transaction back.
    assert tuple(await connection.fetchrow(EVENTS) or ()) == (LINKS, LINKS, 1, 1)
    assert await connection.fetchval(LARGEST_TRANSACTION) <= CASCADE_CHUNK
