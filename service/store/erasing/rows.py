"""The statements that remove rows; each of them removes a bounded number."""

from collections.abc import Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Final, NamedTuple

from service.core.values import DocumentKey, EntityKey

if TYPE_CHECKING:
    from service.store.database import Connection

MAX_LINKS_REMOVED: Final = 1000
"""The most links removed in one transaction, which holds the locks of their documents for some 10 ms."""
REPLIES_READ: Final = 1000
"""Stored replies that are searched in one statement."""
DEAD_LINKS: Final = 10_000
"""document_links is vacuumed before entities are removed if it has at least so many dead rows."""
NO_LIMIT_S: Final = 86_400.0
"""The time-out of statements that may take long on a large database."""

LOCK: Final = """
SELECT d.workspace_id::text, d.id
FROM unnest($1::uuid[], $2::text[]) AS k (workspace_id, id)
CROSS JOIN LATERAL (
    SELECT workspace_id, id
    FROM documents
    WHERE workspace_id = k.workspace_id AND id = k.id
    FOR NO KEY UPDATE
) AS d
"""
LOCK_FREE: Final = LOCK.replace("FOR NO KEY UPDATE", "FOR NO KEY UPDATE SKIP LOCKED")

# A later statement than LOCK: its snapshot has what the transaction that held the lock before has written.
REMOVE_LINKS: Final = """
DELETE FROM document_links AS l
USING (
    SELECT l.ctid AS place -- does not change: the document is locked
    FROM unnest($1::uuid[], $2::text[]) AS k (workspace_id, id)
    CROSS JOIN LATERAL (
        SELECT ctid
        FROM document_links
        WHERE workspace_id = k.workspace_id AND document_id = k.id
            AND deleted_at < coalesce($3::timestamptz, 'infinity')
            AND ($4::text IS NULL OR (entity_type = $4 AND entity_id = $5))
    ) AS l
    LIMIT $6
) AS s
WHERE l.ctid = s.place
"""

# For NOT EXISTS the planner might build a hash of all links; so it is a sub-select with LIMIT.
REMOVE_DOCUMENTS: Final = """
WITH removed AS (
    DELETE FROM documents AS d
    USING unnest($1::uuid[], $2::text[]) AS k (workspace_id, id)
    CROSS JOIN LATERAL (
        SELECT ctid AS place FROM documents WHERE workspace_id = k.workspace_id AND id = k.id OFFSET 0
    ) AS s
    WHERE d.ctid = s.place
        AND d.deleted_at < coalesce($3::timestamptz, 'infinity')
        AND (
            SELECT true FROM document_links AS l
            WHERE l.workspace_id = k.workspace_id AND l.document_id = k.id
            ORDER BY l.id -- only the primary key has this order
            LIMIT 1
        ) IS NULL
    RETURNING d.workspace_id, d.id, d.version, d.revision
)
INSERT INTO erased_documents AS e (workspace_id, id_hash, version, revision)
SELECT workspace_id, sha256(convert_to(id, 'UTF8')), version, revision
FROM removed
ON CONFLICT ON CONSTRAINT erased_documents_pkey DO UPDATE
SET version = excluded.version, revision = excluded.revision
"""

LOCK_ENTITIES: Final = """
SELECT
FROM unnest($1::uuid[], $2::text[], $3::text[]) AS k (workspace_id, type, id)
CROSS JOIN LATERAL (
    SELECT FROM entities WHERE workspace_id = k.workspace_id AND type = k.type AND id = k.id FOR UPDATE
) AS e
"""

# A later statement than LOCK_ENTITIES, whose snapshot may lack the row that was waited for. The foreign key
# refuses an entity to which links are left, active or removed. Its check reads the part of
# document_links_triple_key that has the workspace. There a million dead entries take 0.1 s for each entity,
# until a vacuum removes them.
REMOVE_ENTITIES: Final = """
DELETE FROM entities AS e
USING (
    SELECT e.ctid AS place -- does not change: the entity is locked
    FROM unnest($1::uuid[], $2::text[], $3::text[]) AS k (workspace_id, type, id)
    CROSS JOIN LATERAL (
        SELECT ctid FROM entities WHERE workspace_id = k.workspace_id AND type = k.type AND id = k.id OFFSET 0
    ) AS e
) AS s
WHERE e.ctid = s.place
"""

HAS_DEAD_LINKS: Final = """
SELECT n_dead_tup >= $1
FROM pg_stat_user_tables
WHERE relid = 'document_links'::regclass
"""
VACUUM_LINKS: Final = "VACUUM (INDEX_CLEANUP ON, TRUNCATE OFF) document_links"

# A reply names an id in JSON, or in the text of a problem.
REPLIES: Final = """
SELECT scope,
    position(convert_to('"' || $4 || '"', 'UTF8') IN body) > 0
        OR position(convert_to('''' || $4 || '''', 'UTF8') IN body) > 0
        OR $4 IS NULL
FROM idempotency_keys
WHERE workspace_id = $1 AND scope > $2
ORDER BY workspace_id, scope
LIMIT $3
"""
REMOVE_REPLIES: Final = """
DELETE FROM idempotency_keys
WHERE workspace_id = $1 AND scope = ANY ($2)
"""


class Removed(NamedTuple):
    """The numbers of removed rows."""

    documents: int = 0
    links: int = 0
    entities: int = 0
    replies: int = 0

    @property
    def is_full(self) -> bool:
        """Whether one transaction has removed as many links as it may, so that there may be more."""
        return self.links == MAX_LINKS_REMOVED

    def plus(self, other: "Removed") -> "Removed":
        """Return the sums."""
        return Removed(*map(sum, zip(self, other, strict=True)))


async def remove_documents(
    connection: "Connection", keys: Sequence[DocumentKey], before: datetime | None, *, wait: bool
) -> Removed:
    """Remove the links of the documents that were deleted before that time, then the deleted documents.

    The caller has begun a transaction with INDEXES_ONLY.

    Args:
        connection: the transaction's.
        keys: the documents, sorted, so that nothing deadlocks.
        before: None: whenever they were deleted.
        wait: wait for locks; otherwise documents that another transaction has locked are left out.
    """
    rows = await connection.fetch(LOCK if wait else LOCK_FREE, *_columns(keys))
    locked = _columns([tuple(row) for row in rows])
    links = await connection.execute(REMOVE_LINKS, *locked, before, None, None, MAX_LINKS_REMOVED)
    documents = await connection.execute(REMOVE_DOCUMENTS, *locked, before)
    return Removed(_number(documents), _number(links))


async def remove_links_to(
    connection: "Connection", entity: EntityKey, keys: Sequence[DocumentKey]
) -> Removed:
    """Remove the deleted links between an entity and at most MAX_LINKS_REMOVED documents, in order."""
    await connection.fetch(LOCK, *_columns(keys))
    links = await connection.execute(
        REMOVE_LINKS, *_columns(keys), None, entity.type, entity.id, MAX_LINKS_REMOVED
    )
    return Removed(links=_number(links))


async def vacuum_links(connection: "Connection") -> None:
    """Remove the dead rows of document_links, if there are many; a role that does not own it removes none."""
    if await connection.fetchval(HAS_DEAD_LINKS, DEAD_LINKS):
        await connection.execute(VACUUM_LINKS, timeout=NO_LIMIT_S)


async def remove_entities(connection: "Connection", keys: Sequence[EntityKey]) -> Removed:
    """Remove entities; the keys are sorted.

    Raises:
        ForeignKeyViolationError: there is a link to one of them, active or removed.
    """
    await connection.execute(LOCK_ENTITIES, *_columns(keys))
    tag = await connection.execute(REMOVE_ENTITIES, *_columns(keys), timeout=NO_LIMIT_S)
    return Removed(entities=_number(tag))


async def remove_replies(
    connection: "Connection", workspace_id: str, after: bytes, name: str | None
) -> tuple[bytes | None, Removed]:
    """Remove stored replies that mention a document or entity; None: all replies.

    Returns the last scope that was read, None if there is none after `after`.
    """
    rows = await connection.fetch(REPLIES, workspace_id, after, REPLIES_READ, name)
    if not rows:
        return None, Removed()
    scopes = [scope for scope, is_found in rows if is_found]
    tag = await connection.execute(REMOVE_REPLIES, workspace_id, scopes) if scopes else "DELETE 0"
    return rows[-1][0], Removed(replies=_number(tag))


def _columns(rows: Sequence[tuple[object, ...]]) -> list[list[object]]:
    """Return the rows as an array for each column; without rows, for two columns."""
    return [list(column) for column in zip(*rows, strict=True)] if rows else [[], []]


def _number(tag: str) -> int:
    """Return the number of rows in a command tag, such as `DELETE 5`."""
    return int(tag.rpartition(" ")[2])
