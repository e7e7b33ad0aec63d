"""Reading rows of `document_links`; they are written by `write` alone."""

from datetime import datetime
from typing import Final, NamedTuple, Protocol
from uuid import UUID

from service.core.changes import DocumentKey, Triple
from service.core.errors import NotFound
from service.store.database import Database

TRIPLE: Final = """
SELECT entity_type, entity_id
FROM document_links
WHERE workspace_id = $1 AND document_id = $2 AND id = $3
"""

COUNT: Final = """
SELECT
    EXISTS (SELECT FROM documents WHERE workspace_id = $1 AND id = $2 AND deleted_at IS NULL),
    (
        SELECT count(*)
        FROM document_links
        WHERE workspace_id = $1 AND document_id = $2 AND deleted_at IS NULL
            AND ($3::text IS NULL OR entity_type = $3) AND ($4::text IS NULL OR entity_id = $4)
    )
"""

LIST: Final = """
SELECT id, entity_type, entity_id, created_at
FROM document_links
WHERE workspace_id = $1 AND document_id = $2 AND deleted_at IS NULL
    AND ($3::text IS NULL OR entity_type = $3) AND ($4::text IS NULL OR entity_id = $4)
ORDER BY workspace_id, document_id, id
LIMIT $5 OFFSET $6
"""  # the order of the primary key, which is (created_at, id)


class LinkFilter(NamedTuple):
    """Which of a document's links are wanted; None: any."""

    entity_type: str | None
    entity_id: str | None


class Window(Protocol):
    """A part of a list, in rows."""

    @property
    def limit(self) -> int:
        """How many."""

    @property
    def offset(self) -> int:
        """How many come before."""


class ListedLink(NamedTuple):
    """An active link in a list of its document's."""

    id: UUID
    entity_type: str
    entity_id: str
    created_at: datetime


async def find_triple(
    database: Database, workspace_id: str, document_id: str, link_id: UUID
) -> Triple | None:
    """Return what the link with that id links, active or not; that never changes, so no lock is needed."""
    async with database.acquire() as connection:
        row = await connection.fetchrow(TRIPLE, workspace_id, document_id, link_id)
    return None if row is None else Triple(workspace_id, document_id, row[0], row[1])


async def list_links(
    database: Database, document: DocumentKey, wanted: LinkFilter, window: Window
) -> tuple[int, list[ListedLink]]:
    """Return how many active links of the document there are, and those in the window, oldest first.

    Raises:
        NotFound: there is no such document.
    """
    async with database.acquire() as connection:
        counted = await connection.fetchrow(COUNT, *document, *wanted)
        if counted is None or not counted[0]:
            raise NotFound(f"document {document[1]!r} does not exist")
        rows = await connection.fetch(LIST, *document, *wanted, window.limit, window.offset)
    return counted[1], [ListedLink(*row) for row in rows]
