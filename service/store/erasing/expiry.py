"""Expiry: removed links and deleted documents are removed after LINKS_KEEP_DELETED_DAYS.

A sweep reads all documents in the order of the primary key, a batch in each transaction. All processes share
one sweep: its place is a row, whose lock admits one process at a time.
"""

import asyncio
from collections.abc import Callable
from datetime import datetime
from typing import TYPE_CHECKING, Final, NamedTuple

from service.core.values import DocumentKey
from service.logs import get_logger
from service.store.database import INDEXES_ONLY, Database
from service.store.erasing.rows import Removed, remove_documents
from service.supervision import LastingProblem

if TYPE_CHECKING:
    from service.store.database import Connection

BATCH: Final = 200
"""Documents that are read in one transaction, which takes some 10 ms."""
BATCH_PAUSE_S: Final = 0.05
"""The pause between two batches, however many processes there are: at most 4,000 documents/s are read."""
POLL_S: Final = 60.0
"""The pause before a process looks again whether a sweep is due that no other process does."""

# It needs no flush of WAL: what a crash loses is removed again. The COMMIT of a later transaction that reads
# the tombstone flushes it.
PREPARE: Final = f"SET LOCAL synchronous_commit = off; {INDEXES_ONLY}"

PLACE: Final = """
SELECT workspace_id::text, document_id, now() - make_interval(hours => 24 * $1)
FROM expiry_sweep
WHERE next_at <= now()
FOR NO KEY UPDATE SKIP LOCKED
"""

DUE: Final = """
SELECT d.workspace_id::text, d.id,
    d.deleted_at < $3 OR (
        SELECT true FROM document_links AS l
        WHERE l.workspace_id = d.workspace_id AND l.document_id = d.id AND l.deleted_at < $3
        LIMIT 1 -- for EXISTS the planner might build a hash of all links
    ) IS NOT NULL
FROM documents AS d
WHERE (d.workspace_id, d.id) > (coalesce($1::uuid, '00000000-0000-0000-0000-000000000000'), coalesce($2, ''))
ORDER BY d.workspace_id, d.id
LIMIT $4
"""

COUNT: Final = """
UPDATE expiry_sweep
SET documents = documents + $1, links = links + $2, next_at = now() + make_interval(secs => $3)
"""
MOVE: Final = "UPDATE expiry_sweep SET workspace_id = $1, document_id = $2"
WHOLE: Final = "SELECT documents, links FROM expiry_sweep"
FINISH: Final = """
UPDATE expiry_sweep
SET workspace_id = NULL, document_id = NULL, documents = 0, links = 0,
    next_at = now() + interval '24 hours', finished_at = now()
"""
FINISHED: Final = (
    "SELECT extract(EPOCH FROM finished_at)::float8, next_at > now() FROM expiry_sweep"
)

log = get_logger(__name__)


class Swept(NamedTuple):
    """What one batch has removed; and what its sweep has, None if the sweep goes on."""

    removed: Removed
    whole: Removed | None


class Sweeper:
    """Sweeps once in 24 hours.

    `on_removed` gets the numbers of removed documents and links. `on_finished` gets the end of the last
    sweep, in seconds since 1970.
    """

    def __init__(
        self,
        database: Database,
        keep_days: int,
        *,
        on_removed: Callable[[int, int], None] = lambda *_: None,
        on_finished: Callable[[float], None] = lambda _: None,
    ) -> None:
        self._database = database
        self._keep_days = keep_days
        self._on_removed = on_removed
        self._on_finished = on_finished

    async def run(self) -> None:
        """Sweep until the task is cancelled; retry after any error."""
        problem = LastingProblem(log, "expiry.failed", "expiry.recovered")
        while True:
            swept = None
            try:
                swept = await self.sweep()
                if swept is not None or await self._report_finished():
                    problem.note_success()
            except Exception as error:  # noqa: BLE001 - the next try may succeed after any error
                problem.note_failure(error)
            await asyncio.sleep(POLL_S if swept is None else BATCH_PAUSE_S)

    async def sweep(self) -> Swept | None:
        """Remove what has expired in the next batch; None: no batch is due, or another process does it."""
        async with (
            self._database.acquire() as connection,
            connection.transaction(isolation="read_committed"),  # overrides the database's default
        ):
            await connection.execute(PREPARE)
            place = await connection.fetchrow(PLACE, self._keep_days)
            swept = None if place is None else await _sweep(connection, *place)
        if swept is not None:
            self._on_removed(swept.removed.documents, swept.removed.links)
            if swept.whole is not None:
                documents, links, *_ = swept.whole
                log.info("expiry.swept", documents=documents, links=links)
        return swept

    async def _report_finished(self) -> bool:
        """Report the end of the last sweep; return False if a batch is due: another process has it."""
        async with self._database.acquire() as connection:
            ((finished_at, none_is_due),) = await connection.fetch(FINISHED)
        if finished_at is not None:
            self._on_finished(finished_at)
        return bool(none_is_due)


async def _sweep(
    connection: "Connection", workspace_id: str | None, document_id: str | None, before: datetime
) -> Swept:
    rows = await connection.fetch(DUE, workspace_id, document_id, before, BATCH)
    due = [DocumentKey(workspace, document) for workspace, document, is_due in rows if is_due]
    removed = Removed()
    if due:
        removed = await remove_documents(connection, due, before, wait=False)
    await connection.execute(COUNT, removed.documents, removed.links, BATCH_PAUSE_S)
    if removed.is_full:
        return Swept(removed, None)  # the next batch begins at the same place
    if len(rows) == BATCH:
        await connection.execute(MOVE, *rows[-1][:2])
        return Swept(removed, None)
    whole = await connection.fetch(WHOLE)
    await connection.execute(FINISH)
    return Swept(removed, Removed(*whole[0]))
