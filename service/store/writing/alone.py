"""Writes that have a transaction of their own. Those of one document take turns."""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Collection
from contextlib import asynccontextmanager
from functools import partial

from service.core.errors import Unavailable
from service.core.links import LinksWrite
from service.core.values import DocumentKey
from service.core.writes import Progress, Reply
from service.store.writing.entities import EntityUnlinker
from service.store.writing.execute import MAX_WAIT_S, Executor, Member
from service.store.writing.transaction import Transactions


class AloneWriter:
    """Executes each write in a task, in a transaction of its own that waits for locks.

    One write for each document waits for the lock in Postgres. The others wait here for their turn, in the
    order of arrival and without a connection, so that the callers of one document do not occupy the pool.
    `write` is called with the writes to links that the deletion of an entity needs.
    """

    def __init__(
        self,
        transactions: Transactions,
        executor: Executor,
        write: Callable[[LinksWrite], Awaitable[Reply]],
    ) -> None:
        self._transactions = transactions
        self._executor = executor
        self._unlinker = EntityUnlinker(transactions, write)
        self._tasks: set[asyncio.Task[None]] = set()
        self._locks: dict[DocumentKey, asyncio.Lock] = {}
        self.documents: Counter[DocumentKey] = Counter()
        """The number of writes to each document that have a transaction of their own, or wait for a turn."""

    def add(self, member: Member) -> None:
        """Start the task that writes."""
        task = asyncio.create_task(self._write(member), name="write-alone")
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def stop(self, timeout_s: float) -> None:
        """Wait until all writes are done, at most so long, then cancel them."""
        if self._tasks:
            _, pending = await asyncio.wait(self._tasks, timeout=timeout_s)
            for task in pending:
                task.cancel()

    async def _write(self, member: Member) -> None:
        try:
            await self._transact(member)
            if isinstance(member.answer, Progress):
                await self._unlinker.finish(member, self._transact)
        except Exception as error:  # noqa: BLE001 - the caller gets every error
            member.fail(error)
        except asyncio.CancelledError:
            member.interrupt()
            raise
        else:
            member.settle()

    async def _transact(self, member: Member) -> None:
        member.answer = None
        async with self._turn(member.needs.documents):
            if member.future.done():
                return  # the caller has disconnected, and the write has not begun
            step = partial(self._executor.execute, members=[member], wait=True)
            await self._transactions.run_alone(step)

    @asynccontextmanager
    async def _turn(self, documents: Collection[DocumentKey]) -> AsyncIterator[None]:
        """Wait for the document's turn, and keep it until the context ends.

        A write to several documents waits for no turn: while it waits for one, it would keep the others.

        Raises:
            Unavailable: the writes before this one took longer than MAX_WAIT_S.
        """
        lock = asyncio.Lock()
        if len(documents) == 1:
            (document,) = documents
            lock = self._locks.setdefault(document, lock)
        self.documents.update(documents)
        try:
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
        finally:
            self.documents.subtract(documents)
            for document in documents:
                if not self.documents[document]:
                    del self.documents[document]
                    self._locks.pop(document, None)
