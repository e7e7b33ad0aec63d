"""Documents with many links, inserted with SQL; and the longest step of the event loop."""

import asyncio
import time
from types import TracebackType
from typing import Self

import asyncpg

# The document's version is the number of its links, as after one call for each link.
FILL = """
WITH w AS (SELECT id FROM workspaces WHERE name = 'test'),
e AS (
    INSERT INTO entities (workspace_id, type, id)
    SELECT w.id, 'item', 'item_' || n FROM w, generate_series(1, $2::int) AS n
    ON CONFLICT DO NOTHING
),
d AS (
    INSERT INTO documents (workspace_id, id, version)
    SELECT w.id, $1, $2 FROM w
)
INSERT INTO document_links (workspace_id, document_id, id, entity_type, entity_id, role, created_at)
SELECT
    w.id, $1, ('018f0000-0000-7000-8000-' || lpad(to_hex(n), 12, '0'))::uuid, 'item', 'item_' || n,
    'role', '2026-01-01'::timestamptz + n * interval '1 ms'
FROM w, generate_series(1, $2::int) AS n
"""


async def fill(connection: asyncpg.Connection, document: str, links: int) -> list[str]:
    """Make a document with so many links, to item_1 …; return the items' ids."""
    await connection.execute(FILL, document, links)
    return [f"item_{number}" for number in range(1, links + 1)]


class LongestStep:
    """Measures the longest step of this event loop, in seconds of the thread's CPU time.

    On a busy machine the elapsed time of a step is much longer, its CPU time hardly.
    """

    def __init__(self) -> None:
        self.seconds = 0.0

    def __enter__(self) -> Self:
        self._run = run = asyncio.Handle._run  # noqa: SLF001 - every step of the loop is one call of it

        def timed(handle: asyncio.Handle) -> None:
            began = time.thread_time()
            run(handle)
            self.seconds = max(self.seconds, time.thread_time() - began)

        asyncio.Handle._run = timed  # type: ignore[assignment] # noqa: SLF001 - likewise
        return self

    def __exit__(
        self, _: type[BaseException] | None, __: BaseException | None, ___: TracebackType | None
    ) -> None:
        asyncio.Handle._run = self._run  # type: ignore[method-assign] # noqa: SLF001 - likewise
