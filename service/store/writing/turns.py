"""The order in which this process' own transactions wait for the lock of a document."""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Collection
from contextlib import AsyncExitStack, asynccontextmanager

from service.core.changes import DocumentKey
from service.core.errors import Unavailable
from service.store.writing.execute import MAX_WAIT_S


class Turns:
    """One lock for each document, given in the order of arrival.

    Of the requests that are written in a transaction of their own, one for each document waits for
    Postgres' lock. The others wait here, without a connection, so that the callers of one document
    do not occupy the pool.
    """

    def __init__(self) -> None:
        self._locks: dict[DocumentKey, asyncio.Lock] = {}
        self.users: Counter[DocumentKey] = Counter()
        """How many requests have the turn of a document, wait for it, or wait for Postgres' lock."""

    @asynccontextmanager
    async def take(self, documents: Collection[DocumentKey]) -> AsyncIterator[None]:
        """Wait for the document's turn, and keep it as long as the context lasts.

        A request about several documents waits for none: while it waited for one of them, it would
        keep the turns of the others.

        Raises:
            Unavailable: the requests before this one took too long.
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
            detail = "too many others write to the same document; nothing was written"
            raise Unavailable(detail) from error
        try:
            yield
        finally:
            lock.release()

    def _leave(self, documents: Collection[DocumentKey]) -> None:
        """Forget the documents that no request wants any more."""
        for document in documents:
            self.users[document] -= 1
            if not self.users[document]:
                del self.users[document]
                self._locks.pop(document, None)
