"""All rows of a database, to compare them before and after a call."""

from typing import Any

import asyncpg

TABLES = ("documents", "entities", "document_links", "idempotency_keys", "outbox")


async def everything(connection: asyncpg.Connection) -> dict[str, list[tuple[Any, ...]]]:
    """Return the rows of all tables that calls write to, with xmin, which changes at each update."""
    rows = {}
    for table in TABLES:
        found = await connection.fetch(f"SELECT t.xmin, t.* FROM {table} AS t")
        rows[table] = sorted((tuple(row.values()) for row in found), key=str)
    return rows
