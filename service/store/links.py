"""Reading rows of `document_links`; they are written by `write` alone.

Lists are in the order of the links' ids, which is that of (created_at, id), and which is that of the
indexes they are read from: no page is sorted, and a page costs no more than the count beside it.
"""

from datetime import datetime
from typing import Final, NamedTuple, Protocol
from uuid import UUID

from service.core.changes import DocumentKey, EntityKey, LinkKey
from service.core.errors import NotFound
from service.store.database import Database

KEY: Final = """
SELECT entity_type, entity_id
FROM document_links
WHERE workspace_id = $1 AND document_id = $2 AND id = $3
"""

COUNT: Final = """
SELECT
    EXISTS (SELECT FROM documents WHERE workspace_id = $1 AND id = $2 AND deleted_at IS NULL),
    (
        SELECT count(*)
        FROM (
            SELECT
            FROM document_links
            WHERE workspace_id = $1 AND document_id = $2 AND deleted_at IS NULL
                AND ($3::text IS NULL OR entity_type = $3) AND ($4::text IS NULL OR entity_id = $4)
            ORDER BY id -- so that no other index will do
        ) AS l
    )
"""

LIST: Final = """
SELECT id, entity_type, entity_id, created_at
FROM document_links
WHERE workspace_id = $1 AND document_id = $2 AND deleted_at IS NULL
    AND ($3::text IS NULL OR entity_type = $3) AND ($4::text IS NULL OR entity_id = $4)
    AND id > $5
ORDER BY workspace_id, document_id, id
LIMIT $6 OFFSET $7
"""

COUNT_WITH_ROLE: Final = """
SELECT count(*)
FROM (
    SELECT
    FROM document_links
    WHERE workspace_id = $1 AND ($2::text IS NULL OR entity_type = $2) AND entity_id = $3
        AND deleted_at IS NULL AND role = $4
    ORDER BY workspace_id, entity_id, id -- so that no other index will do
) AS l
"""

# From the index alone, since no row has to be read for its role: a third of the time.
COUNT_DOCUMENTS: Final = COUNT_WITH_ROLE.replace(" AND role = $4", "")

# The page is cut before the documents are looked up, so that only its own are.
LIST_DOCUMENTS: Final = """
SELECT l.document_id, d.display_name, l.id, l.role, l.created_at
FROM (
    SELECT workspace_id, document_id, id, role, created_at
    FROM document_links
    WHERE workspace_id = $1 AND ($2::text IS NULL OR entity_type = $2) AND entity_id = $3
        AND deleted_at IS NULL AND ($4::text IS NULL OR role = $4)
        AND id > $5
    ORDER BY workspace_id, entity_id, id
    LIMIT $6 OFFSET $7
) AS l
CROSS JOIN LATERAL (
    SELECT display_name
    FROM documents
    WHERE workspace_id = l.workspace_id AND id = l.document_id
    OFFSET 0 -- one by one, never the whole table
) AS d
ORDER BY l.id
"""


IS_ACTIVE: Final = """
SELECT EXISTS (
    SELECT FROM entities
    WHERE workspace_id = $1 AND type = $2 AND id = $3 AND deleted_at IS NULL
)
"""


class LinkFilter(NamedTuple):
    """Which of a document's links are wanted; None: any."""

    entity_type: str | None
    entity_id: str | None


class RowRange(Protocol):
    """A part of a list, in rows: `limit` of those after a link's id, less the first `offset`."""

    @property
    def limit(self) -> int:
        """How many."""

    @property
    def offset(self) -> int:
        """How many to leave out first."""

    @property
    def after(self) -> UUID:
        """The link's id; zero for the beginning."""


class ListedLink(NamedTuple):
    """An active link in a list of its document's."""

    id: UUID
    entity_type: str
    entity_id: str
    created_at: datetime


class ListedDocument(NamedTuple):
    """A document in a list of an entity's, and the link between them."""

    id: str
    display_name: str | None
    link_id: UUID
    role: str | None
    created_at: datetime


async def find_key(database: Database, document: DocumentKey, link_id: UUID) -> LinkKey:
    """Return the key of a link, active or not. The key of an id never changes: no lock is needed.

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
            raise NotFound(f"document {document[1]!r} does not exist")
        rows = await connection.fetch(
            LIST, *document, *wanted, row_range.after, row_range.limit, row_range.offset
        )
    return counted[1], [ListedLink(*row) for row in rows]


async def require_entity(database: Database, key: EntityKey) -> None:
    """See that the entity is there.

    Raises:
        NotFound: it is unknown or deleted.
    """
    async with database.reading() as connection:
        if not await connection.fetchval(IS_ACTIVE, *key):
            raise NotFound(f"{key[1]} {key[2]!r} does not exist")


async def list_documents(
    database: Database, entity: tuple[str, str | None, str], role: str | None, row_range: RowRange
) -> tuple[int, list[ListedDocument]]:
    """Return the number of the entity's active links, and the documents in the range, oldest link first.

    The entity is its workspace, type (None: any) and id; the role, if given, is the link's.
    """
    async with database.reading() as connection:
        if role is None:
            total = await connection.fetchval(COUNT_DOCUMENTS, *entity)
        else:
            total = await connection.fetchval(COUNT_WITH_ROLE, *entity, role)
        rows = await connection.fetch(
            LIST_DOCUMENTS, *entity, role, row_range.after, row_range.limit, row_range.offset
        )
    return total, [ListedDocument(*row) for row in rows]
