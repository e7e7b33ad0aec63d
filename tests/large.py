"""Documents with many links, written past the service, and how long the event loop is busy."""

import asyncio
import time
from types import TracebackType
from typing import Self

import asyncpg

# As if each link had been made by a call of its own: the version counts them.
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
    """Make a document with that many links, to item_1 and so on; return the items' ids."""
    await connection.execute(FILL, document, links)
    return [f"item_{number}" for number in range(1, links + 1)]


class LoopLag:
    """Measures for how long this event loop was busy at most, while it is entered."""

    INTERVAL_S = 0.001

    def __init__(self) -> None:
        self.longest_s = 0.0

    async def __aenter__(self) -> Self:
        self._task = asyncio.create_task(self._watch())
        await asyncio.sleep(0)
        return self

    async def __aexit__(
        self, _: type[BaseException] | None, __: BaseException | None, ___: TracebackType | None
    ) -> None:
        self._task.cancel()

    async def _watch(self) -> None:
        while True:
            began = time.perf_counter()
            await asyncio.sleep(self.INTERVAL_S)
            late = time.perf_counter() - began - self.INTERVAL_S
            self.longest_s = max(self.longest_s, late)
