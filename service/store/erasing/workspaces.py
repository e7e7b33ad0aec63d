"""Workspaces: finding and listing them, and deleting one with all that it has."""

import asyncio
from collections.abc import Callable
from datetime import datetime
from typing import Final

import asyncpg
from msgspec import Struct

from service.core.errors import Unavailable
from service.store.database import INDEXES_ONLY, Database
from service.store.erasing.erase import erasing
from service.store.erasing.rows import Removed

LIST: Final = """
SELECT w.id::text, w.name, w.created_at, count(k.id)
FROM workspaces AS w
LEFT JOIN api_keys AS k ON k.workspace_id = w.id AND k.revoked_at IS NULL
GROUP BY w.id
ORDER BY w.name
"""

FIND: Final = """
SELECT id::text, name
FROM workspaces
WHERE name = $1 OR id::text = $1
ORDER BY name = $1 DESC
LIMIT 1
"""

REVOKE: Final = """
UPDATE api_keys
SET revoked_at = now()
WHERE workspace_id = $1 AND revoked_at IS NULL
"""

SETTLE_S: Final = 30.0
"""Seconds after a revocation until no call with the key writes: a process caches the key for 10 s, and a call
ends within 15 s."""
STILL_IN_USE_S: Final = """
SELECT $2 - extract(EPOCH FROM now() - max(revoked_at))::float8
FROM api_keys
WHERE workspace_id = $1
"""

BATCH: Final = 1000
"""Tombstones removed in one transaction."""
REMOVE_TOMBSTONES: Final = """
DELETE FROM erased_documents
WHERE workspace_id = $1 AND id_hash = ANY (ARRAY( -- a join might read all of them for each
    SELECT id_hash FROM erased_documents WHERE workspace_id = $1 LIMIT $2
))
"""
REMOVE_KEYS: Final = "DELETE FROM api_keys WHERE workspace_id = $1 AND revoked_at IS NOT NULL"
REMOVE_WORKSPACE: Final = "DELETE FROM workspaces WHERE id = $1"

ATTEMPTS: Final = 3
"""Attempts to remove a workspace for which new keys are made meanwhile."""


class Workspace(Struct, frozen=True):
    """A workspace as operators see it in the list; `keys` is the number of keys that are not revoked."""

    id: str
    name: str
    created_at: datetime
    keys: int


async def list_workspaces(database: Database) -> list[Workspace]:
    """Return all workspaces."""
    async with database.acquire() as connection:
        return [Workspace(*row) for row in await connection.fetch(LIST)]


async def find_workspace(database: Database, name: str) -> tuple[str, str] | None:
    """Return id and name of the workspace with that name, or else with that id."""
    async with database.acquire() as connection:
        row = await connection.fetchrow(FIND, name)
    return None if row is None else tuple(row)


async def delete_workspace(
    database: Database, workspace_id: str, on_page: Callable[[Removed], None]
) -> Removed:
    """Delete a workspace with everything in it; return the numbers of removed rows.

    The workspace's own row goes last, after the last call with one of its keys has ended.

    Raises:
        Unavailable: the database is unreachable, or new keys are made for the workspace.
    """
    async with erasing(database, workspace_id) as eraser:
        for _ in range(ATTEMPTS):
            async with database.acquire() as connection:
                await connection.execute(REVOKE, workspace_id)
            await eraser.everything(on_page)
            await _settle(database, workspace_id)
            await eraser.everything(on_page)
            await _remove_tombstones(database, workspace_id)
            if await _remove_workspace(database, workspace_id):
                return eraser.removed
    raise Unavailable("the workspace has a new key: run the command again")


async def _settle(database: Database, workspace_id: str) -> None:
    async with database.acquire() as connection:
        left = await connection.fetchval(STILL_IN_USE_S, workspace_id, SETTLE_S)
    await asyncio.sleep(max(left or 0.0, 0.0))


async def _remove_tombstones(database: Database, workspace_id: str) -> None:
    tag = f"DELETE {BATCH}"
    while tag == f"DELETE {BATCH}":
        async with database.acquire() as connection:
            tag = await connection.execute(REMOVE_TOMBSTONES, workspace_id, BATCH)


async def _remove_workspace(database: Database, workspace_id: str) -> bool:
    """Remove the row with its revoked keys; False: something in the workspace is new."""
    try:
        async with database.acquire() as connection, connection.transaction():
            await connection.execute(INDEXES_ONLY)
            await connection.execute(REMOVE_KEYS, workspace_id)
            await connection.execute(REMOVE_WORKSPACE, workspace_id)
    except asyncpg.ForeignKeyViolationError:
        return False
    return True
