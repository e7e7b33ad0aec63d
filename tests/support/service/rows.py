"""Everything that a database holds, to see that a call wrote nothing, or what it wrote."""

from typing import Any

import asyncpg

TABLES = ("documents", "entities", "document_links", "idempotency_keys", "outbox")


async def everything(connection: asyncpg.Connection) -> dict[str, list[tuple[Any, ...]]]:
    """Return all rows of all tables that callers write to, versions of rows (xmin) included."""
    rows = {}
    for table in TABLES:
        found = await connection.fetch(f"SELECT t.xmin, t.* FROM {table} AS t")
        rows[table] = sorted((tuple(row.values()) for row in found), key=str)
    return rows
