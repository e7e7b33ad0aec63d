"""The SELECTs of the API.

Lists are ordered by the links' ids. This is the order of (created_at, id), and of the indexes.
"""

import uuid
from collections.abc import AsyncIterator, Awaitable, Callable
from datetime import datetime
from typing import TYPE_CHECKING, Final, NamedTuple
from uuid import UUID

from service.core.errors import NotFound, TooLarge
from service.core.values import DocumentKey, DocumentRow, EntityKey, LinkKey, LinkRow
from service.core.writes import Reply
from service.store.database import Database

if TYPE_CHECKING:
    from service.store.database import Connection

KEY: Final = "SELECT entity_type, entity_id FROM find_link($1, $2, $3)"

# coalesce() keeps the planner from the index on entities, in which it might read all links of an entity.
COUNT: Final = """
SELECT
    EXISTS (SELECT FROM documents WHERE workspace_id = $1 AND id = $2 AND deleted_at IS NULL),
    (
        SELECT count(*)
        FROM (
            SELECT
            FROM document_links
            WHERE workspace_id = $1 AND document_id = $2 AND deleted_at IS NULL
                AND coalesce(entity_type = $3, true) AND coalesce(entity_id = $4, true)
            ORDER BY id -- only the primary key has this order, and sorting is switched off
        ) AS l
    )
"""

LIST: Final = """
SELECT id, entity_type, entity_id, created_at
FROM document_links
WHERE workspace_id = $1 AND document_id = $2 AND deleted_at IS NULL
    AND coalesce(entity_type = $3, true) AND coalesce(entity_id = $4, true)
    AND id > $7
ORDER BY workspace_id, document_id, id
LIMIT $5 OFFSET $6
"""

COUNT_WITH_ROLE: Final = """
SELECT count(*)
FROM (
    SELECT
    FROM document_links
    WHERE workspace_id = $1 AND ($2::text IS NULL OR entity_type = $2) AND entity_id = $3
        AND deleted_at IS NULL AND role = $4
    ORDER BY workspace_id, entity_id, id -- only document_links_entity_idx has this order
) AS l
"""

# Without the role this is an index-only scan, which takes a third of the time.
COUNT_DOCUMENTS: Final = COUNT_WITH_ROLE.replace(" AND role = $4", "")

# LIMIT stands before the join, so that only the documents of the page are read.
LIST_DOCUMENTS: Final = """
SELECT l.document_id, d.display_name, l.id, l.role, l.created_at
FROM (
    SELECT workspace_id, document_id, id, role, created_at
    FROM document_links
    WHERE workspace_id = $1 AND ($2::text IS NULL OR entity_type = $2) AND entity_id = $3
        AND deleted_at IS NULL AND ($4::text IS NULL OR role = $4)
        AND id > $7
    ORDER BY workspace_id, entity_id, id
    LIMIT $5 OFFSET $6
) AS l
CROSS JOIN LATERAL (
    SELECT display_name
    FROM documents
    WHERE workspace_id = l.workspace_id AND id = l.document_id
    OFFSET 0 -- keeps the planner from reading the whole table for a join
) AS d
ORDER BY l.id
"""


IS_ACTIVE: Final = """
SELECT EXISTS (
    SELECT FROM entities
    WHERE workspace_id = $1 AND type = $2 AND id = $3 AND deleted_at IS NULL
)
"""

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
"""Links that are read and encoded in one go. They keep the event loop busy for a few milliseconds."""
FIRST: Final = uuid.UUID(int=0)

# jsonb sorts keys, writes numbers in full, and drops the sign of zero.
STORED_FORM: Final = """
SELECT CASE WHEN octet_length(m::text) <= $2 THEN m END
FROM (SELECT $1::jsonb AS m OFFSET 0) AS given
"""

MAX_METADATA_BYTES: Final = 2 << 20
"""The most bytes of metadata as jsonb text: `1e300` is 5 bytes in a request, and 301 as jsonb."""

LinkPages = AsyncIterator[list[LinkRow]]
"""A document's active links, oldest first, a page at a time."""


class LinkFilter(NamedTuple):
    """Conditions on a document's links; None: any value."""

    entity_type: str | None
    entity_id: str | None


class RowRange(NamedTuple):
    """A part of a list: `limit` rows, after skipping `offset` rows that follow the link id `after`."""

    limit: int
    offset: int
    after: UUID
    """Zero: from the beginning."""


class ListedLink(NamedTuple):
    """An active link in the list of its document's links."""

    id: UUID
    entity_type: str
    entity_id: str
    created_at: datetime


class ListedDocument(NamedTuple):
    """A document in the list of an entity's documents, and the link between them."""

    id: str
    display_name: str | None
    link_id: UUID
    role: str | None
    created_at: datetime


async def find_key(database: Database, document: DocumentKey, link_id: UUID) -> LinkKey:
    """Return the key of a link, active or not. A link's key never changes, so no lock is needed.

    Raises:
        NotFound: the document has no such link.
    """
    async with database.acquire() as connection:
        row = await connection.fetchrow(KEY, *document, link_id)
    if row is None:
        raise NotFound(f"document {document.id!r} has no link {str(link_id)!r}")
    return LinkKey(document, EntityKey(document.workspace_id, *row))


async def list_links(
    database: Database, document: DocumentKey, wanted: LinkFilter, row_range: RowRange
) -> tuple[int, list[ListedLink]]:
    """Return the number of the document's active links, and those in the range, oldest first.

    Raises:
        NotFound: there is no such document.
    """
    async with database.reading() as connection:
        counted = await connection.fetchrow(COUNT, *document, *wanted)
        if counted is None or not counted[0]:
            raise NotFound(f"document {document.id!r} does not exist")
        rows = await connection.fetch(LIST, *document, *wanted, *row_range)
    return counted[1], [ListedLink(*row) for row in rows]


async def require_entity(database: Database, key: EntityKey) -> None:
    """Raise NotFound if the entity is unknown or deleted."""
    async with database.reading() as connection:
        if not await connection.fetchval(IS_ACTIVE, *key):
            raise NotFound(f"{key.type} {key.id!r} does not exist")


async def list_documents(
    database: Database, entity: tuple[str, str | None, str], role: str | None, row_range: RowRange
) -> tuple[int, list[ListedDocument]]:
    """Return the number of the entity's active links, and the documents in the range, oldest link first.

    `entity` is workspace, type (None: any) and id. `role` is the links' role (None: any).
    """
    async with database.reading() as connection:
        if role is None:
            total = await connection.fetchval(COUNT_DOCUMENTS, *entity)
        else:
            total = await connection.fetchval(COUNT_WITH_ROLE, *entity, role)
        rows = await connection.fetch(LIST_DOCUMENTS, *entity, role, *row_range)
    return total, [ListedDocument(*row) for row in rows]


async def read_document(
    database: Database,
    key: DocumentKey,
    respond: Callable[[DocumentRow, LinkPages], Awaitable[Reply]],
) -> Reply:
    """Return the reply that `respond` makes of a document and its active links, read in one snapshot.

    Raises:
        NotFound: the document does not exist, or is deleted.
    """
    async with database.reading() as connection:
        row = await connection.fetchrow(READ, *key)
        if row is None or row["deleted_at"] is not None:
            raise NotFound(f"document {key.id!r} does not exist")
        return await respond(DocumentRow(*row), link_pages(connection, key))


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


async def stored_metadata(database: Database, metadata: str) -> str:
    """Return the jsonb text of metadata, which can be compared with stored metadata.

    Raises:
        TooLarge: the text is longer than MAX_METADATA_BYTES.
    """
    async with database.acquire() as connection:
        stored: str | None = await connection.fetchval(STORED_FORM, metadata, MAX_METADATA_BYTES)
    if stored is None:
        raise TooLarge(
            f"metadata takes more than {MAX_METADATA_BYTES} bytes with its numbers written out: "
            "store less of it, or large numbers as text"
        )
    return stored
