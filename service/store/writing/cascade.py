"""The links of a deleted entity: they are removed in many transactions, a chunk of them in each.

There are two ways to remove a chunk:

* All chunks but the last: one statement removes the links whose documents no other transaction has locked.
  It skips the others, so the transaction holds its locks only while it works. IN_FLIGHT of these
  transactions run at the same time: while one waits for Postgres, the process makes the events of the other.
  They have no document in common, since an entity has at most one link to a document.
* The last chunk, and the links that were skipped: a write of links like any other. It waits for locks, and
  the last one stores the reply of the deletion.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Final
from uuid import UUID

from service.core.entities import EntityWrite
from service.core.errors import Busy
from service.core.links import LinksWrite
from service.core.values import EntityKey, LinkKey, Unlink
from service.core.writes import Progress, Reply
from service.store.database import Database
from service.store.reading import FIRST
from service.store.writing.entities import Chunk, chunk_ends, linked_to
from service.store.writing.execute import Executor
from service.store.writing.transaction import Transactions

CASCADE_CHUNK: Final = 300
"""The most links removed in one transaction, which holds the locks of their documents for some 20 ms."""
IN_FLIGHT: Final = 2
"""Transactions of one deletion at the same time. More would leave other calls less of the processors."""
CHUNKS_READ: Final = 20
"""The chunks whose ends one statement reads: 6,000 links in some 3 ms."""


class Cascade:
    """Removes the links of deleted entities.

    `write_links` writes a list of changes in the kind of transaction that suits it.
    """

    def __init__(
        self,
        transactions: Transactions,
        executor: Executor,
        write_links: Callable[[LinksWrite], Awaitable[Reply]],
    ) -> None:
        self._transactions = transactions
        self._executor = executor
        self._write_links = write_links

    async def unlink_everywhere(
        self, write: EntityWrite, end: float, gone: Callable[[], bool]
    ) -> Reply | Progress:
        """Remove all links of a deleted entity, as long as the call has time.

        `end` is a time of the monotonic clock; `gone` tells whether the caller has disconnected. The
        transaction of the last chunk stores and returns the reply of a deletion. If another call removes
        the last chunk, or the entity is to be registered, returns the progress of this call.

        Raises:
            Busy: not all links were removed before `end`, or the caller has disconnected.
        """
        chunks = Chunks(self._transactions.database, write.key, end, gone)
        workers = [self._unlink_free(write, chunks) for _ in range(IN_FLIGHT)]
        # With return_exceptions, an error does not interrupt the transaction of another worker.
        for error in await asyncio.gather(*workers, return_exceptions=True):
            if error is not None:
                raise error
        return await self._unlink_rest(write, chunks)

    async def _unlink_free(self, write: EntityWrite, chunks: "Chunks") -> None:
        """Remove chunk after chunk, without the links whose documents are locked elsewhere."""
        try:
            while (chunk := await chunks.next()) is not None:
                step = partial(self._executor.unlink_free, write=write, chunk=chunk)
                await self._transactions.run_alone(step)
                chunks.note_done(chunk)
        finally:
            chunks.stop()

    async def _unlink_rest(self, write: EntityWrite, chunks: "Chunks") -> Reply | Progress:
        """Remove the links that are left, waiting for locks."""
        key, after, progress = write.key, chunks.left_after, Progress(written=chunks.written)
        deletes = write.operation == "delete"
        while True:
            async with self._transactions.database.reading() as connection:
                found = await linked_to(connection, key, after, CASCADE_CHUNK + 1)
            if not found:
                return progress
            if not chunks.may_begin():
                raise Busy(not_complete(key))
            is_last = len(found) <= CASCADE_CHUNK
            chunk = found[:CASCADE_CHUNK]
            unlink = LinksWrite(
                caller=write.caller,
                idempotency=write.idempotency if is_last and deletes else None,
                cause="entity_deleted",
                changes=[
                    Unlink(LinkKey(document, key), missing_ok=True, orphaned=True)
                    for document, _ in chunk
                ],
                respond=lambda *_: write.reply,
            )
            reply = await self._write_links(unlink)
            progress = Progress(written=True)
            if is_last:
                return reply if deletes else progress
            after = chunk[-1][1]


class Chunks:
    """The chunks of an entity's links that are followed by another link, one after the other.

    So the last chunk is none of them.
    """

    def __init__(
        self, database: Database, key: EntityKey, end: float, gone: Callable[[], bool]
    ) -> None:
        self._database = database
        self._key = key
        self._end = end
        self._gone = gone
        self._begun = False
        self._stopped = False
        self._reading = asyncio.Lock()
        self._ends: list[UUID] = []
        """The last link of each of the next chunks, the next one at the end of the list."""
        self._after = FIRST
        self._skipped_after: UUID | None = None
        self.written = False
        """Whether a link was removed."""

    @property
    def left_after(self) -> UUID:
        """The link after which links are left: those of the last chunk, and those that were skipped."""
        return self._after if self._skipped_after is None else self._skipped_after

    def may_begin(self) -> bool:
        """Whether a chunk may begin: the first of the call, or one for which the call still has time."""
        if self._begun and (time.monotonic() > self._end or self._gone()):
            return False
        self._begun = True
        return True

    async def next(self) -> Chunk | None:
        """Return the next chunk; None: there is none, the call has no time, or `stop` was called."""
        async with self._reading:
            if not self._ends and not self._stopped:
                async with self._database.reading() as connection:
                    ends = await chunk_ends(
                        connection, self._key, self._after, CASCADE_CHUNK, CHUNKS_READ
                    )
                self._ends = ends[::-1]
            if self._stopped or not self._ends or not self.may_begin():
                return None
            chunk = Chunk(self._after, self._ends.pop())
            self._after = chunk.up_to
            return chunk

    def note_done(self, chunk: Chunk) -> None:
        """Note the result of a chunk: links of it are left if some of their documents were locked."""
        self.written |= chunk.removed > 0
        if chunk.removed < CASCADE_CHUNK:
            self._skipped_after = min(chunk.after, self._skipped_after or chunk.after)

    def stop(self) -> None:
        """Return no further chunk."""
        self._stopped = True


def not_complete(key: EntityKey) -> str:
    """Return the message of a deletion that has to be called again."""
    return (
        f"{key.type} {key.id!r} is deleted, but not all links to it are removed yet: call again "
        "to continue"
    )
