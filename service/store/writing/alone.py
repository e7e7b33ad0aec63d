"""Writes that have a transaction of their own, and the deletion of an entity, which has several."""

import asyncio
import time
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from typing import Final, cast

from msgspec.structs import replace

from service.core.entities import EntityWrite
from service.core.errors import Busy, Unavailable
from service.core.values import DocumentKey
from service.core.writes import Progress, Reply
from service.store.writing.cascade import Cascade, not_complete
from service.store.writing.entities import settle_entity
from service.store.writing.execute import MAX_WAIT_S, Executor, Member
from service.store.writing.transaction import Transactions

SETTLE_TIMEOUT_MS: Final = 9_000
"""The longest wait for the transactions that were linking to an entity when it was marked as deleted.
LOCK_TIMEOUT_MS, which is shorter, would often end in 503."""
WORK_S: Final = 7.0
"""The time after which a call begins no further chunk and is answered 503; the edge's deadline is 11 s."""


class AloneWriter:
    """Executes each write in a task, in a transaction of its own that waits for locks.

    One write for each document waits for the lock in Postgres. The others wait here for their turn, in the
    order of arrival and without a connection, so that the callers of one document do not occupy the pool.

    The deletion of an entity goes on after its first transaction, until its call can be answered. If it is
    interrupted, the next call continues it. A deletion that was answered 503 may be complete when the caller
    repeats it, and is then answered 404: another call completed it, or the transactions that were linking to
    the entity rolled back.
    """

    def __init__(self, transactions: Transactions, executor: Executor, cascade: Cascade) -> None:
        self._transactions = transactions
        self._executor = executor
        self._measures = transactions.database.measures
        self._cascade = cascade
        self._tasks: set[asyncio.Task[None]] = set()
        self._locks: dict[DocumentKey, asyncio.Lock] = {}
        self.waiting: dict[Member, None] = {}
        """The writes that wait for their turn, in the order of arrival here."""
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
                await self._continue(member)
        except Exception as error:  # noqa: BLE001 - the caller gets every error
            member.fail(error)
        except asyncio.CancelledError:
            member.interrupt()
            raise
        else:
            member.settle()

    async def _transact(self, member: Member) -> None:
        is_first = member.answer is None
        member.answer = None
        async with self._turn(member):
            if member.future.done():
                return  # the caller has disconnected, and the write has not begun
            if is_first:
                self._measures.taken([member])
            step = partial(self._executor.execute, members=[member], wait=True)
            await self._transactions.run_alone(step, members=[member])

    @asynccontextmanager
    async def _turn(self, member: Member) -> AsyncIterator[None]:
        """Wait for the turn of the write to its document, and keep it until the context ends.

        A write to several documents waits for no turn: while it waits for one, it would keep the others.

        Raises:
            Busy: the writes before this one took longer than MAX_WAIT_S.
        """
        documents = member.needs.documents
        lock = asyncio.Lock()
        if len(documents) == 1:
            (document,) = documents
            lock = self._locks.setdefault(document, lock)
        self.documents.update(documents)
        try:
            await self._wait_for(lock, member)
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

    async def _wait_for(self, lock: asyncio.Lock, member: Member) -> None:
        self.waiting[member] = None
        try:
            async with asyncio.timeout(MAX_WAIT_S):
                await lock.acquire()
        except TimeoutError as error:
            detail = "too many other writes to this document are waiting; nothing was written"
            raise Busy(detail) from error
        finally:
            del self.waiting[member]

    async def _continue(self, member: Member) -> None:
        """Continue a write to an entity after its first transaction, until it has a reply.

        Raises:
            Refusal: a link could not be removed.
            Unavailable: the deletion is not complete.
        """
        write = cast("EntityWrite", member.write)
        end = time.monotonic() + WORK_S
        try:
            while isinstance(progress := member.answer, Progress):
                if progress.settle:
                    step = partial(settle_entity, key=write.key)
                    await self._transactions.run_alone(step, SETTLE_TIMEOUT_MS)
                unlinked = await self._cascade.unlink_everywhere(write, end, member.future.done)
                if isinstance(unlinked, Reply):
                    member.answer = unlinked
                    return
                if progress.written or unlinked.written:
                    member.write = replace(write, continues=True)
                await self._transact(member)
        except Unavailable as refusal:
            raise type(refusal)(not_complete(write.key)) from refusal.__cause__
