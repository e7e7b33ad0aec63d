"""Query plans use the right indexes, also when they were made for statistics that are no longer true."""

import random
import re
from collections.abc import Sequence

import asyncpg
import pytest

from service.store import reading
from service.store.database import INDEXES_ONLY
from service.store.erasing import erase
from service.store.erasing import rows as erase_rows
from service.store.writing import entities, witness
from service.store.writing import rows as write_rows
from tests.support.parts.shared import execute
from tests.support.seeds import seeds
from tests.support.service.api import Api, serving
from tests.support.waiting import until

Call = tuple[str, str, object]
"""Method, path and body of a call."""

ROWS = 20_000
LINKS = 4_000  # of the document that has many; 5,000 is the most
MOST_PAGES = 8_000  # half more than the calls need

TABLES = (
    "documents",
    "entities",
    "document_links",
    "idempotency_keys",
    "erased_documents",
    "outbox",
)

# Statements that read links, and the only index that suits each.
LINK_STATEMENTS = [
    (reading.COUNT, "document_links_pkey"),
    (reading.LIST, "document_links_pkey"),
    (reading.LINKS, "document_links_pkey"),
    (reading.COUNT_WITH_ROLE, "document_links_entity_idx"),
    (reading.COUNT_DOCUMENTS, "document_links_entity_idx"),
    (reading.LIST_DOCUMENTS, "document_links_entity_idx"),
    (write_rows.READ_ACTIVE, "document_links_triple_key"),
    (entities.REGISTER, "document_links_entity_idx"),
    (entities.READ_ENTITY, "document_links_entity_idx"),
    (entities.LINKED, "document_links_entity_idx"),
    (entities.CHUNK_ENDS, "document_links_entity_idx"),
    (witness.FOUND_LINK, "document_links_triple_key"),
    (erase_rows.REMOVE_DOCUMENTS, "document_links_pkey"),
    (erase.LINKED_ONCE, "document_links_triple_key"),
]

# As a vacuum counts in a table with one page, whose rows have all been removed.
ALMOST_EMPTY = f"""
UPDATE pg_class SET relpages = 1, reltuples = 0
WHERE oid IN ({", ".join(f"'{table}'::regclass" for table in TABLES)}) OR relname ~ '^outbox_[0-9]+$'
"""

# How many rows were read; an index may be scanned from end to end, too.
ROWS_READ = """
SELECT sum(seq_tup_read + coalesce(idx_tup_fetch, 0))
FROM pg_stat_user_tables
WHERE relname ~ '^(documents|entities|document_links|idempotency_keys|outbox)'
"""

# How many pages of indexes were read. A condition on a later column of an index reads all of its pages, but
# only the rows that it finds.
PAGES_READ = """
SELECT sum(idx_blks_read + idx_blks_hit)
FROM pg_statio_user_indexes
WHERE relname ~ '^(documents|entities|document_links|idempotency_keys|outbox)'
"""

# Sessions count what they did at their ends, if not before.
ENDED = """
SELECT count(*) = 0
FROM pg_stat_activity
WHERE application_name = 'document-links' AND datname = current_database()
"""

# The ids are long, so that the indexes have many pages.
FILL = f"""
CREATE TEMPORARY TABLE n ON COMMIT DROP AS
SELECT w.id AS workspace_id, lpad(n::text, 100, '0') AS id, n
FROM workspaces AS w, generate_series(1, {ROWS}) AS n;

INSERT INTO documents (workspace_id, id) SELECT workspace_id, 'full_' || id FROM n;

INSERT INTO entities (workspace_id, type, id) SELECT workspace_id, 'shipment', 'ship_' || id FROM n;

INSERT INTO document_links (workspace_id, document_id, id, entity_type, entity_id, created_at)
SELECT workspace_id, 'full_' || id, gen_random_uuid(), 'shipment', 'ship_' || id, now() FROM n;

INSERT INTO documents (workspace_id, id, version) SELECT id, 'wide', {LINKS} FROM workspaces;

INSERT INTO document_links (workspace_id, document_id, id, entity_type, entity_id, created_at)
SELECT workspace_id, 'wide', gen_random_uuid(), 'shipment', 'ship_' || id, now() FROM n WHERE n <= {LINKS};

INSERT INTO entities (workspace_id, type, id) SELECT id, 'shipment', 'ship_wide' FROM workspaces;

INSERT INTO document_links (workspace_id, document_id, id, entity_type, entity_id, created_at)
SELECT workspace_id, 'full_' || id, gen_random_uuid(), 'shipment', 'ship_wide', now() FROM n;

INSERT INTO idempotency_keys (workspace_id, scope, fingerprint, status, body)
SELECT workspace_id, sha256(id::bytea), sha256(id::bytea), 200, '' FROM n;

INSERT INTO outbox (event_id, event_type, key, payload)
SELECT gen_random_uuid(), 'document.linked', 'key', '' FROM n
"""


def statistics(choice: random.Random) -> list[str]:
    """Return statements that give some tables and indexes the statistics of another time.

    A vacuum corrects the numbers of rows and pages, but not what is known of values; an insertion corrects
    nothing.
    """
    statements: list[str] = []
    for table in TABLES:
        pages, rows = choice.choice([1, 2, 300]), choice.choice([0, 1, 3, 8, 100_000])
        of_table = f"oid = '{table}'::regclass"
        of_indexes = (
            f"oid IN (SELECT indexrelid FROM pg_index WHERE indrelid = '{table}'::regclass)"
        )
        statements += choice.choice(
            [
                [],
                [f"ANALYZE {table}"],
                [f"VACUUM {table}"],
                [f"UPDATE pg_class SET relpages = {pages}, reltuples = {rows} WHERE {of_table}"],
                [f"UPDATE pg_class SET relpages = 1, reltuples = {rows} WHERE {of_indexes}"],
            ]
        )
    return statements


async def succeed(api: Api, calls: Sequence[Call], key: str) -> None:
    """Make the calls; each write has an Idempotency-Key that begins with `key`."""
    for index, (method, path, body) in enumerate(calls):
        headers = {} if method == "GET" else {"Idempotency-Key": f"{key}-{index}"}
        response = await api.client.request(method, path, json=body, headers=headers)
        assert response.is_success, f"{method} {path}: {response.text}"


async def every_call(api: Api, document: str, resource: str) -> None:
    """Make each call of the API for one document and one shipment."""
    url = f"/v1/documents/{document}"
    filters = f"resource_type=shipment&resource_id={resource}"
    operation = {"op": "unlink", "document_id": document, "resource_id": resource}
    link_id = (await api.add(document, resource)).json()["data"]["id"]
    calls: list[Call] = [
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
    await succeed(api, calls, key=resource)


async def make(api: Api, document: str, resource: str) -> None:
    """Make a document and a shipment."""
    assert (await api.client.put(f"/v1/documents/{document}", json={})).status_code == 201
    assert (await api.client.put(f"/v1/entities/shipment/{resource}")).status_code == 201


async def calls_of_many(api: Api, number: int) -> None:
    """Make calls for one link of a document with many, and of an entity with many."""
    document, resource = f"full_{number:0>100}", f"ship_{number:0>100}"
    link_id = (await api.add("wide", resource)).json()["data"]["id"]
    calls: list[Call] = [
        ("PATCH", f"/v1/documents/wide/links/{link_id}", {"role": "r"}),
        ("DELETE", f"/v1/documents/wide/links/{link_id}", None),
        ("POST", "/v1/documents/wide/links", {"resource_id": resource}),
        (
            "GET",
            f"/v1/documents/{document}/links?resource_type=shipment&resource_id=ship_wide",
            None,
        ),
        ("POST", f"/v1/documents/{document}/links", {"resource_id": "ship_wide"}),
        ("PUT", "/v1/entities/shipment/ship_wide", None),
    ]
    await succeed(api, calls, key=f"many-{number}")


async def read_by_calls(
    database: str,
    connection: asyncpg.Connection,
    early: Sequence[Sequence[str]],
    late: Sequence[str],
) -> tuple[int, int]:
    """Return how many rows, and pages of indexes, the calls of five documents read on full tables.

    `early` are statements for each of eight documents, before the tables are filled. `late` are executed by
    another session, before the transaction that fills them ends.
    """
    async with serving(database, LINKS_POOL_SIZE="1") as api:
        # The sixth execution may make the plan that stays.
        for number, statements in enumerate(early):
            await make(api, f"doc_{number}", f"ship_{number}")
            await execute(database, *statements)
            await every_call(api, f"doc_{number}", f"ship_{number}")
        async with connection.transaction():
            await connection.execute(FILL)
            await execute(database, *late)
        await connection.fetch("SELECT pg_stat_force_next_flush()")
        rows, pages = [await connection.fetchval(query) for query in (ROWS_READ, PAGES_READ)]
        for number in range(1, 6):
            await every_call(api, f"full_{number:0>100}", f"ship_{number:0>100}")
            await calls_of_many(api, ROWS - number)

    async def ended() -> bool:
        return bool(await connection.fetchval(ENDED))

    await until(ended)
    return (
        await connection.fetchval(ROWS_READ) - rows,
        await connection.fetchval(PAGES_READ) - pages,
    )


@pytest.mark.parametrize("analyzed", ["empty", "almost empty", "with few rows", "while filling"])
async def test_no_call_reads_a_table_or_an_index_from_end_to_end(
    database: str, connection: asyncpg.Connection, analyzed: str
) -> None:
    """Statistics by which the tables are almost empty lead to no sequential and no full index scan."""
    await connection.execute("VACUUM ANALYZE")  # the planner takes it that they stay empty
    early = {"almost empty": [ALMOST_EMPTY], "with few rows": ["ANALYZE"]}.get(analyzed, [])
    # Postgres counts the new pages, and only the old rows.
    late = ["VACUUM ANALYZE"] if analyzed == "while filling" else []
    rows, pages = await read_by_calls(database, connection, [early] * 8, late)
    assert rows < ROWS  # one scan in each round would read five times as many
    assert pages < MOST_PAGES


@pytest.mark.parametrize("seed", seeds([48, 117]))
async def test_no_statistics_lead_to_such_a_scan(
    database: str, connection: asyncpg.Connection, seed: int
) -> None:
    """Statistics of any time, different ones for tables and indexes, lead to no such scan either."""
    choice = random.Random(seed)
    early: list[list[str]] = [[], statistics(choice)] + [[]] * 6
    choice.shuffle(early)
    late = statistics(choice)
    rows, pages = await read_by_calls(database, connection, early, late if seed % 2 else [])
    assert rows < ROWS
    assert pages < MOST_PAGES


@pytest.mark.parametrize("seed", seeds([0]))
async def test_each_statement_reads_links_by_its_index(
    connection: asyncpg.Connection, database: str, seed: int
) -> None:
    """Each statement finds links by one index, whatever the statistics; functions have the other tests."""
    async with serving(database) as api:
        for number in range(8):
            await make(api, f"doc_{number}", f"ship_{number}")
            assert (await api.add(f"doc_{number}", f"ship_{number}")).is_success
    await connection.execute("ANALYZE")
    await connection.execute(FILL)
    await connection.execute("SET plan_cache_mode = force_generic_plan")
    for number, (statement, _) in enumerate(LINK_STATEMENTS):
        await connection.execute(f"PREPARE s{number} AS {statement}")
    choice = random.Random(seed)
    for _ in range(100):
        # VACUUM cannot be rolled back, and ANALYZE would make the statistics true.
        changed = [each for each in statistics(choice) if each.startswith("UPDATE")]
        transaction = connection.transaction()
        await transaction.start()
        await connection.execute("; ".join([INDEXES_ONLY, *changed]))
        for number, (statement, index) in enumerate(LINK_STATEMENTS):
            count = max(map(int, re.findall(r"\$(\d+)", statement)))
            arguments = ", ".join(["NULL"] * count)
            plan = await connection.fetch(f"EXPLAIN EXECUTE s{number}({arguments})")
            text = "\n".join(row[0] for row in plan)
            used = set(re.findall(r" (?:using|on) (document_links_\w+)", text))
            assert used == {index}, f"{changed}\n{text}"
        await transaction.rollback()
