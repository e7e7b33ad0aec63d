"""Reading rows of `documents` with their links, which may be thousands: a page at a time."""

import uuid
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import TYPE_CHECKING, Final

from service.core.changes import DocumentKey, DocumentRow, EntityKey, LinkKey, LinkRow
from service.core.errors import NotFound, TooLarge
from service.core.writes import Reply
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

# A page of the active links, after a link's id ($3).
LINKS: Final = """
SELECT entity_type, entity_id, id, role, created_at
FROM document_links
WHERE workspace_id = $1 AND document_id = $2 AND id > $3 AND deleted_at IS NULL
ORDER BY workspace_id, document_id, id
LIMIT $4
"""

PAGE: Final = 500
"""LinkPages that are read, and shown, at once: a few milliseconds of the event loop's time."""
FIRST: Final = uuid.UUID(int=0)

# Metadata as it would be stored: jsonb writes numbers out, sorts keys and drops a zero's sign.
STORED_FORM: Final = """
SELECT CASE WHEN octet_length(m::text) <= $2 THEN m END
FROM (SELECT $1::jsonb AS m OFFSET 0) AS given
"""

MAX_METADATA_BYTES: Final = 2 << 20
"""Of the stored form: `1e300` is five bytes in a body, and 301 in every answer."""

LinkPages = AsyncIterator[list[LinkRow]]
"""A document's active links, oldest first, a page at a time."""


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
            raise NotFound(f"document {key.id!r} does not exist")
        return await respond(row, link_pages(connection, key))


async def link_pages(connection: "Connection", key: DocumentKey) -> LinkPages:
    """Yield the document's active links, oldest first."""
    after = FIRST
    while True:
        rows = await connection.fetch(LINKS, *key, after, PAGE)
        if rows:
            yield [
                LinkRow(LinkKey(key, EntityKey(key.workspace_id, *row[:2])), *row[2:])
                for row in rows
            ]
            after = rows[-1]["id"]
        if len(rows) < PAGE:
            return


def row_of(record: "asyncpg.Record | None") -> DocumentRow | None:
    """Return the document that the database sent; None: there is none."""
    return None if record is None else DocumentRow(**dict(record))


async def stored_metadata(database: Database, metadata: str) -> str:
    """Return metadata as Postgres would store it, to be compared with what is stored.

    Raises:
        TooLarge: it takes too many bytes with its numbers written out.
    """
    async with database.acquire() as connection:
        stored: str | None = await connection.fetchval(STORED_FORM, metadata, MAX_METADATA_BYTES)
    if stored is None:
        raise TooLarge(
            f"metadata takes more than {MAX_METADATA_BYTES} bytes with its numbers written out: "
            "store less of it, or large numbers as text"
        )
    return stored
