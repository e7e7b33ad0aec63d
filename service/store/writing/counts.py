"""The number of a document's active links; counted only if the document may reach MAX_LINKS.

A document's `version` counts its link events, so it is an upper bound of the active links. For nearly every
document this bound is low enough. For the others the links are counted, under the document's lock. The
count is remembered: later, the document has at most as many more links as its version has grown by.
"""

import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Final, NamedTuple

from msgspec.structs import replace

from service.core.values import MAX_LINKS, DocumentKey, DocumentState
from service.core.writes import State
from service.measures import Measures
from service.store.database import INDEXES_ONLY

if TYPE_CHECKING:
    from service.store.database import Connection

COUNT: Final = """
SELECT (
    SELECT count(*)
    FROM (
        SELECT
        FROM document_links AS l
        WHERE l.workspace_id = u.w AND l.document_id = u.d AND l.deleted_at IS NULL
        ORDER BY l.workspace_id, l.document_id, l.id -- only the primary key has this order
    ) AS l
)
FROM unnest($1::uuid[], $2::text[]) WITH ORDINALITY AS u (w, d, n)
ORDER BY u.n
"""

REMEMBERED: Final = 10_000
"""The most documents whose count is remembered. If there are more, all counts are forgotten."""


class Count(NamedTuple):
    """The number of active links of a document at that version."""

    version: int
    active: int


class LinkCounter:
    """Counts active links of documents that the caller has locked."""

    def __init__(self, measures: Measures) -> None:
        self._measures = measures
        self._counts: dict[DocumentKey, Count] = {}

    async def count(
        self, connection: "Connection", state: State, near: Sequence[DocumentKey], more: int
    ) -> None:
        """Set `active` of those documents in `near` that might exceed MAX_LINKS with `more` links."""
        unsure = [
            key for key in near if self._at_most(key, state.documents[key]) + more > MAX_LINKS
        ]
        if not unsure:
            return
        began = time.monotonic()
        await connection.execute(INDEXES_ONLY)
        rows = await connection.fetch(COUNT, *zip(*unsure, strict=True))
        self._measures.steps.count.add(time.monotonic() - began)
        if len(self._counts) + len(unsure) > REMEMBERED:
            self._counts.clear()
        for key, (active,) in zip(unsure, rows, strict=True):
            state.documents[key] = document = replace(state.documents[key], active=active)
            self._counts[key] = Count(document.version, active)

    def _at_most(self, key: DocumentKey, document: DocumentState) -> int:
        """Return an upper bound of the active links, from the version and the last count."""
        count = self._counts.get(key)
        if count is None or document.version < count.version:  # the database was restored
            return document.version
        return count.active + document.version - count.version
