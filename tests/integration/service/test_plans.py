"""Query plans that were made for few rows use indexes when the tables are full."""

import asyncpg
import pytest

from tests.support.parts.shared import execute
from tests.support.service.api import Api, serving
from tests.support.waiting import until

ROWS = 20_000

# How many rows were read; an index may be scanned from end to end, too.
ROWS_READ = """
SELECT sum(seq_tup_read + coalesce(idx_tup_fetch, 0))
FROM pg_stat_user_tables
WHERE relname ~ '^(documents|entities|document_links|idempotency_keys|outbox)'
"""

# Sessions count what they did at their ends, if not before.
ENDED = """
SELECT count(*) = 0
FROM pg_stat_activity
WHERE application_name = 'document-links' AND datname = current_database()
"""

FILL = f"""
INSERT INTO documents (workspace_id, id)
SELECT w.id, 'full_' || n FROM workspaces AS w, generate_series(1, {ROWS}) AS n;

INSERT INTO entities (workspace_id, type, id)
SELECT w.id, 'shipment', 'ship_full' || n FROM workspaces AS w, generate_series(1, {ROWS}) AS n;

INSERT INTO document_links (workspace_id, document_id, id, entity_type, entity_id, created_at)
SELECT w.id, 'full_' || n, gen_random_uuid(), 'shipment', 'ship_full' || n, now()
FROM workspaces AS w, generate_series(1, {ROWS}) AS n;

INSERT INTO idempotency_keys (workspace_id, scope, fingerprint, status, body)
SELECT w.id, sha256(n::text::bytea), sha256(n::text::bytea), 200, ''
FROM workspaces AS w, generate_series(1, {ROWS}) AS n;

INSERT INTO outbox (event_id, event_type, key, payload)
SELECT gen_random_uuid(), 'document.linked', 'key', '' FROM generate_series(1, {ROWS}) AS n
"""


async def every_call(api: Api, document: str, resource: str) -> None:
    """Make each call of the API for one document and one shipment."""
    client, url = api.client, f"/v1/documents/{document}"
    filters = f"resource_type=shipment&resource_id={resource}"
    operation = {"op": "unlink", "document_id": document, "resource_id": resource}
    link_id = (await api.add(document, resource)).json()["data"]["id"]
    calls: list[tuple[str, str, object]] = [
        ("POST", f"{url}/links", {"resource_id": resource}),
        ("PATCH", f"{url}/links/{link_id}", {"role": "r"}),
        ("GET", f"{url}/links?limit=5", None),
        ("GET", f"{url}/links?{filters}", None),
        ("GET", url, None),
        ("GET", f"/v1/documents?{filters}", None),
        ("GET", f"/v1/entities/shipment/{resource}/documents", None),
        ("DELETE", f"{url}/links/{link_id}", None),
        ("POST", url, {"resources": {"set": [resource]}}),
        ("DELETE", f"{url}/links?{filters}", None),
        ("PUT", url, {"display_name": "x", "resources": [resource]}),
        ("POST", "/v1/links/batch", {"operations": [operation]}),
        ("POST", url, {"resources": {"add": [resource]}}),
        ("DELETE", url, None),
        ("POST", f"{url}/restore", None),
        ("PUT", f"/v1/entities/shipment/{resource}", None),
        ("DELETE", f"/v1/entities/shipment/{resource}", None),
    ]
    for index, (method, path, body) in enumerate(calls):
        key = {} if method == "GET" else {"Idempotency-Key": f"{resource}-{index}"}
        response = await client.request(method, path, json=body, headers=key)
        assert response.is_success, f"{method} {path}: {response.text}"


async def make(api: Api, document: str, resource: str) -> None:
    """Make a document and a shipment."""
    assert (await api.client.put(f"/v1/documents/{document}", json={})).status_code == 201
    assert (await api.client.put(f"/v1/entities/shipment/{resource}")).status_code == 201


@pytest.mark.parametrize("analyzed", ["empty", "with few rows", "while filling"])
async def test_no_call_reads_a_table_or_an_index_from_end_to_end(
    database: str, connection: asyncpg.Connection, analyzed: str
) -> None:
    """Statistics by which the tables are almost empty lead to no sequential and no full index scan."""
    await connection.execute("VACUUM ANALYZE")  # the planner takes it that they stay empty
    async with serving(database, LINKS_POOL_SIZE="1") as api:
        for number in range(8):  # the sixth execution may make the plan that stays
            await make(api, f"doc_{number}", f"ship_{number}")
            if analyzed == "with few rows":
                await connection.execute("ANALYZE")
            await every_call(api, f"doc_{number}", f"ship_{number}")
        async with connection.transaction():
            await connection.execute(FILL)
            if analyzed == "while filling":  # Postgres counts the new pages, and only the old rows
                await execute(database, "VACUUM ANALYZE")
        await connection.fetch("SELECT pg_stat_force_next_flush()")
        before = await connection.fetchval(ROWS_READ)
        for number in range(1, 6):
            await every_call(api, f"full_{number}", f"ship_full{number}")

    async def ended() -> bool:
        return bool(await connection.fetchval(ENDED))

    await until(ended)
    read = await connection.fetchval(ROWS_READ) - before
    assert read < ROWS  # one scan would read as many
