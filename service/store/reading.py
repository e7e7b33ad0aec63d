"""Reading rows of `documents` with their links, which may be thousands: a page at a time."""

import uuid
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Final

from service.core.changes import DocumentKey, LinkRow, Triple
from service.core.documents import DocumentRow, LinkPages
from service.core.errors import NotFound
from service.core.requests import Reply
from service.store.database import Database

if TYPE_CHECKING:
    import asyncpg

    from service.store.database import Connection

READ: Final = """
SELECT id, version, revision, display_name, category, metadata,
    created_at, updated_at, deleted_at, deletion_id
FROM documents
WHERE workspace_id = $1 AND id = $2
"""

# The active links, or ($3) those that a deletion removed: a page of them, after a link's id ($4).
LINKS: Final = """
SELECT entity_type, entity_id, id, role, created_at, deleted_at, deleted_cause, deletion_id
FROM document_links
WHERE workspace_id = $1 AND document_id = $2 AND id > $4
    AND CASE WHEN $3::uuid IS NULL THEN deleted_at IS NULL ELSE deletion_id = $3 END
ORDER BY workspace_id, document_id, id
LIMIT $5
"""

PAGE: Final = 500
"""LinkPages that are read, and shown, at once: a few milliseconds of the event loop's time."""
FIRST: Final = uuid.UUID(int=0)


async def read_document(
    database: Database,
    key: DocumentKey,
    respond: Callable[[DocumentRow, LinkPages], Awaitable[Reply]],
) -> Reply:
    """Answer with an active document and its active links, as of one moment.

    Raises:
        NotFound: there is none.
    """
    async with database.reading() as connection:
        row = row_of(await connection.fetchrow(READ, *key))
        if row is None or row.deleted_at is not None:
            raise NotFound(f"document {key[1]!r} does not exist")
        return await respond(row, link_pages(connection, key))


async def link_pages(
    connection: "Connection",
    key: DocumentKey,
    deletion_id: uuid.UUID | None = None,
    *,
    size: int = PAGE,
) -> LinkPages:
    """Yield the document's active links, or those that a deletion removed, oldest first."""
    after = FIRST
    while True:
        rows = await connection.fetch(LINKS, *key, deletion_id, after, size)
        if rows:
            yield [LinkRow(Triple(*key, *row[:2]), *row[2:]) for row in rows]
            after = rows[-1]["id"]
        if len(rows) < size:
            return


def row_of(record: "asyncpg.Record | None") -> DocumentRow | None:
    """Return the document that the database sent; None: there is none."""
    return None if record is None else DocumentRow(**dict(record))
