"""An entity's own row: its registration, its locks, and the links that its deletion has to remove."""

from collections.abc import Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Final
from uuid import UUID

from msgspec import Struct

from service.core.entities import RemovedLink
from service.core.values import DocumentKey, EntityKey, EntityState
from service.core.writes import State

if TYPE_CHECKING:
    from service.store.database import Connection

# True if the entity `e` has an active link, otherwise NULL. For EXISTS the planner might build a hash of all
# links.
HAS_LINK: Final = """(
    SELECT true FROM document_links AS l
    WHERE l.workspace_id = e.workspace_id AND l.entity_id = e.id AND l.entity_type = e.type
        AND l.deleted_at IS NULL
    ORDER BY l.workspace_id, l.entity_id, l.id -- only document_links_entity_idx has this order
    LIMIT 1
)"""

# An entity whose deletion is not complete, since it has active links, stays deleted.
REGISTER: Final = f"""
INSERT INTO entities AS e (workspace_id, type, id, created_at)
SELECT w, t, i, clock_timestamp()
FROM unnest($1::uuid[], $2::text[], $3::text[]) WITH ORDINALITY AS u (w, t, i, n)
ORDER BY n
ON CONFLICT (workspace_id, type, id) DO UPDATE
SET deleted_at = NULL, created_at = excluded.created_at
WHERE e.deleted_at IS NOT NULL AND {HAS_LINK} IS NULL
RETURNING e.created_at
"""  # noqa: S608 - a constant

LOCK_ENTITY: Final = """
SELECT true
FROM entities
WHERE workspace_id = $1 AND type = $2 AND id = $3
"""
# FOR UPDATE conflicts with the FOR KEY SHARE of every transaction that is linking to the entity. FOR NO KEY
# UPDATE, which is enough to mark the entity, does not.
TRY_ENTITY: Final = f"{LOCK_ENTITY} FOR UPDATE SKIP LOCKED"
MARK_ENTITY: Final = f"{LOCK_ENTITY} FOR NO KEY UPDATE"
SETTLE_ENTITY: Final = f"{LOCK_ENTITY} AND deleted_at IS NOT NULL FOR UPDATE"

READ_ENTITY: Final = f"""
SELECT clock_timestamp(), deleted_at IS NOT NULL, {HAS_LINK} IS NOT NULL
FROM entities AS e
WHERE workspace_id = $1 AND type = $2 AND id = $3
"""  # noqa: S608 - a constant

# Each chunk begins after the last link of the chunk before: removed links stay in the index until a vacuum,
# and would be read again each time. An entity that was registered again has no links to remove.
LINKED: Final = """
SELECT document_id, id
FROM document_links
WHERE workspace_id = $1 AND entity_type = $2 AND entity_id = $3 AND deleted_at IS NULL
    AND id > $4
    AND EXISTS (
        SELECT FROM entities
        WHERE workspace_id = $1 AND type = $2 AND id = $3 AND deleted_at IS NOT NULL
    )
ORDER BY workspace_id, entity_id, id
LIMIT $5
"""

CHUNK_ENDS: Final = f"""
SELECT id
FROM (
    SELECT id, row_number() OVER (ORDER BY id) AS n, lead(id) OVER (ORDER BY id) AS following
    FROM ({LINKED}) AS l
) AS l
WHERE n % $6 = 0 AND following IS NOT NULL
ORDER BY id
"""  # noqa: S608 - a constant

UNLINK_ENTITY: Final = """
SELECT document_id, version, link_id, role, created_at, written_at
FROM unlink_entity($1, $2, $3, $4, $5)
"""

EVENTS_IN_SLICE: Final = 50
"""The events of a chunk that are made before other tasks of the process run: some 0.5 ms."""


class Chunk(Struct):
    """The links of an entity after one link and up to another one; `removed` of them were removed."""

    after: UUID
    up_to: UUID
    removed: int = 0


async def register(connection: "Connection", keys: Sequence[EntityKey]) -> Sequence[datetime]:
    """Insert the entities, or clear their deletion.

    The keys must be sorted, so that nothing deadlocks. Returns a time for each entity that was changed.
    """
    rows = await connection.fetch(REGISTER, *zip(*keys, strict=True))
    return [row[0] for row in rows]


async def lock_entity(
    connection: "Connection", state: State, key: EntityKey, *, registers: bool
) -> None:
    """Register or lock the entity, and read it into the state by a later statement."""
    registered: Sequence[datetime] = ()
    may_be_linking = False
    if registers:
        registered = await register(connection, [key])
    elif not await connection.fetchval(TRY_ENTITY, *key):
        may_be_linking = True
        await connection.execute(MARK_ENTITY, *key)
    row = await connection.fetchrow(READ_ENTITY, *key)
    if row is None:
        return
    locked_at, deleted, linked = row
    if registered:
        state.unsaved.registered_entity = key
    state.now = registered[0] if registered else locked_at
    state.entity = EntityState(
        deleted, linked, may_be_linking=may_be_linking, registered=bool(registered)
    )


async def settle_entity(connection: "Connection", key: EntityKey) -> None:
    """Wait for the transactions that were linking to the entity when it was marked, and see their links."""
    await connection.execute(SETTLE_ENTITY, *key)


async def linked_to(
    connection: "Connection", key: EntityKey, after: UUID, limit: int
) -> list[tuple[DocumentKey, UUID]]:
    """Return documents and links of a deleted entity, after a link; none if the entity is not deleted."""
    rows = await connection.fetch(LINKED, *key, after, limit)
    return [(DocumentKey(key.workspace_id, row["document_id"]), row["id"]) for row in rows]


async def chunk_ends(
    connection: "Connection", key: EntityKey, after: UUID, size: int, chunks: int
) -> list[UUID]:
    """Return the last link of each chunk of `size` links after a link, for at most so many chunks.

    Only chunks that another link follows are included, and none if the entity is not deleted.
    """
    rows = await connection.fetch(CHUNK_ENDS, *key, after, size * chunks + 1, size)
    return [row["id"] for row in rows]


async def unlink_entity(
    connection: "Connection", state: State, key: EntityKey, chunk: Chunk
) -> list[RemovedLink]:
    """Remove the links of a chunk whose documents are not locked elsewhere, and set the state's time.

    None is removed if the entity is not deleted.
    """
    rows = await connection.fetch(UNLINK_ENTITY, *key, chunk.after, chunk.up_to)
    chunk.removed = len(rows)
    removed = list(map(RemovedLink._make, rows))
    if removed:
        state.now = removed[0].removed_at
    return removed
