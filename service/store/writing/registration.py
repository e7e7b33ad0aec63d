"""Making entities known: on request, or on first use where the policy is `any`."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Final

from service.core.changes import EntityKey

if TYPE_CHECKING:
    from service.store.database import Connection

# One whose deletion has not reached all its links yet is left alone: its links are to stay unlinked.
# (NOT EXISTS might be made a hash of all links.)
REGISTER: Final = """
INSERT INTO entities AS e (workspace_id, type, id)
SELECT w, t, i
FROM unnest($1::uuid[], $2::text[], $3::text[]) WITH ORDINALITY AS u (w, t, i, n)
ORDER BY n
ON CONFLICT (workspace_id, type, id) DO UPDATE
SET deleted_at = NULL
WHERE e.deleted_at IS NOT NULL
    AND (
        SELECT true FROM document_links AS l
        WHERE l.workspace_id = e.workspace_id AND l.entity_id = e.id AND l.entity_type = e.type
            AND l.deleted_at IS NULL
        LIMIT 1
    ) IS NULL
RETURNING e.id
"""

IS_ACTIVE: Final = """
SELECT EXISTS (
    SELECT FROM entities
    WHERE workspace_id = $1 AND type = $2 AND id = $3 AND deleted_at IS NULL
)
"""


async def is_active(connection: "Connection", key: EntityKey) -> bool:
    """Whether the entity is known and not deleted."""
    return bool(await connection.fetchval(IS_ACTIVE, *key))


async def register_entities(connection: "Connection", keys: Sequence[EntityKey]) -> int:
    """Make the entities known, or bring them back from deletion; their links stay unlinked.

    Takes the keys sorted, so that nothing deadlocks; returns how many were not known before.
    """
    return len(await connection.fetch(REGISTER, *zip(*keys, strict=True)))
