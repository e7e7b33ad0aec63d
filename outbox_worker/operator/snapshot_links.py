"""The links of a snapshot, read in the order of their documents, in pages of whole documents."""

from collections.abc import AsyncIterator
from typing import Any
from uuid import UUID

import asyncpg
import msgspec

PAGE_ROWS = 2_000

# $1, $2 a workspace and a document: the links after it.
COUNT = """
SELECT count(*)
FROM document_links
WHERE deleted_at IS NULL AND (workspace_id, document_id) > ($1::text::uuid, $2)
"""

LINKS = """
SELECT l.workspace_id::text AS workspace, l.document_id AS document, d.version, l.id::text AS link,
    l.entity_type, l.entity_id, l.role,
    to_char(l.created_at AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.US"Z"') AS created_at
FROM document_links AS l
JOIN documents AS d ON d.workspace_id = l.workspace_id AND d.id = l.document_id
WHERE l.deleted_at IS NULL AND (l.workspace_id, l.document_id) > ($1::text::uuid, $2)
ORDER BY l.workspace_id, l.document_id, l.id
"""


class Document(msgspec.Struct, frozen=True):
    """A document in the order in which links are read. By default, it comes before all documents."""

    workspace: str = str(UUID(int=0))
    id: str = ""


async def pages(cursor: Any) -> AsyncIterator[list[asyncpg.Record]]:  # noqa: ANN401 - asyncpg has no public type
    """Yield the rows in pages of whole documents."""
    rows: list[asyncpg.Record] = []
    while fetched := await cursor.fetch(PAGE_ROWS):
        rows += fetched
        incomplete = document_of(rows[-1])
        ends = (i for i in range(len(rows), 0, -1) if document_of(rows[i - 1]) != incomplete)
        end = next(ends, 0)
        if end:
            yield rows[:end]
            rows = rows[end:]
    if rows:
        yield rows


def document_of(row: asyncpg.Record) -> Document:
    """Return the document of a link."""
    return Document(row["workspace"], row["document"])
