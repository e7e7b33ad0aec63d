"""Turns: writes of this process that have a transaction of their own queue for each document."""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Collection
from contextlib import AsyncExitStack, asynccontextmanager

from service.core.errors import Unavailable
from service.core.values import DocumentKey
from service.store.writing.execute import MAX_WAIT_S


class Turns:
    """One lock for each document, taken in the order of arrival.

    One write for each document waits for the lock in Postgres. The others wait here, without a
    connection, so that the callers of one document do not occupy the pool.
    """

    def __init__(self) -> None:
        self._locks: dict[DocumentKey, asyncio.Lock] = {}
        self.users: Counter[DocumentKey] = Counter()
        """The number of writes to a document that have a transaction of their own, or wait for a turn."""

    @asynccontextmanager
    async def take(self, documents: Collection[DocumentKey]) -> AsyncIterator[None]:
        """Wait for the document's turn, and keep it until the context ends.

        A write to several documents waits for no turn: while it waits for one, it would keep the others.

        Raises:
            Unavailable: the writes before this one took longer than MAX_WAIT_S.
        """
        self.users.update(documents)
        try:
            async with AsyncExitStack() as taken:
                if len(documents) == 1:
                    (document,) = documents
                    await taken.enter_async_context(self._turn(document))
                yield
        finally:
            self._leave(documents)

    @asynccontextmanager
    async def _turn(self, document: DocumentKey) -> AsyncIterator[None]:
        lock = self._locks.setdefault(document, asyncio.Lock())
        try:
            async with asyncio.timeout(MAX_WAIT_S):
                await lock.acquire()
        except TimeoutError as error:
            detail = "too many other writes to this document are waiting; nothing was written"
            raise Unavailable(detail) from error
        try:
            yield
        finally:
            lock.release()

    def _leave(self, documents: Collection[DocumentKey]) -> None:
        """Count the write out, and forget documents without writes."""
        for document in documents:
            self.users[document] -= 1
            if not self.users[document]:
                del self.users[document]
                self._locks.pop(document, None)
