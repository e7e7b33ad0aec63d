"""Contended documents: writes whose document another transaction has locked share one transaction.

The joint transaction of the group writer waits for no lock. If it retried instead, other processes would
take the lock first each time; a transaction for each write would cost a COMMIT for each. So one transaction
of the process waits in Postgres' queue for the lock, which is first in, first out. When it has the lock, it
writes all writes that have arrived by then.

Usually this is one transaction for all contended documents of the process: those that were contended when
it began, whose locks it waits for, and those that have become contended while it waited, if their locks are
free. A document whose lock is not free in time is given a separate transaction, so that the other documents
do not wait for it.
"""

import asyncio
import time
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from itertools import islice
from typing import TYPE_CHECKING, Final

import asyncpg

from service.core.errors import Busy
from service.core.values import DocumentKey
from service.store.database import HELD_TOO_LONG
from service.store.writing.execute import MAX_CHANGES, Executor, Member, take_group
from service.store.writing.transaction import LOCK_TIMEOUT_MS, Transactions
from service.store.writing.unchanged import UnchangedReader
from service.store.writing.witness import Witness
from service.supervision import Supervisor

if TYPE_CHECKING:
    from service.store.database import Connection

SHARED_LOCK_TIMEOUT_MS: Final = 250
"""The longest wait for each lock in the transaction that waits for several documents. A joint transaction of
another process holds a lock for some 10 ms; only a large write or a hanging session holds it longer."""

CONTENDED_S: Final = 0.2
"""How long writes to a document come here directly after its lock was not free, or after a read has answered
one of them. After that the joint transaction tries the lock again, since most documents are contended for a
short time."""

WAITED_S: Final = 0.001
"""A LOCK that takes Postgres longer has waited for another transaction: a free lock takes some 20 µs."""

# In the order in which lock_links locks documents. Returns the seconds that it has taken.
LOCK: Final = """
SELECT extract(epoch FROM clock_timestamp() - statement_timestamp())::float8, count(*)
FROM (SELECT * FROM unnest($1::uuid[], $2::text[]) AS u (w, d) ORDER BY w, d) AS u
CROSS JOIN LATERAL (
    SELECT true FROM documents AS d WHERE d.workspace_id = u.w AND d.id = u.d FOR NO KEY UPDATE
) AS l
"""


class ContendedWriter:
    """Executes the writes of this process whose only document is locked elsewhere."""

    def __init__(
        self,
        transactions: Transactions,
        executor: Executor,
        left_out: Callable[[Member], None],
        not_written: Callable[[Sequence[Member], Exception], None],
    ) -> None:
        """Take what to call with a write that was not executed, and with writes that met an error."""
        self._transactions = transactions
        self._executor = executor
        self._measures = transactions.database.measures
        self._left_out = left_out
        self._not_written = not_written
        self.waiting: dict[DocumentKey, deque[Member]] = {}
        """The writes that wait for the lock of each document."""
        self.recent: dict[DocumentKey, float] = {}
        """Documents that were contended within the last CONTENDED_S, and the time until which they count."""
        self.unchanged = UnchangedReader(
            transactions.database, self._keep_contended, self._wait_for_lock
        )
        self._apart: dict[DocumentKey, asyncio.Task[None]] = {}
        self._arrival = asyncio.Event()
        self._stopping = False

    def start(self, supervisor: Supervisor) -> None:
        """Start the task that serves the waiting writes."""
        self._loop = asyncio.get_running_loop()
        self._task = supervisor.start("contended-writer", self._run, self._arrival.set)

    async def stop(self, timeout_s: float) -> None:
        """Write the waiting writes, then end the task."""
        await self.unchanged.stop()
        self._stopping = True
        self._arrival.set()
        await self._task.stop(timeout_s)

    def add(self, member: Member) -> None:
        """Queue the write for its document, unless a read may answer it without the lock."""
        (document,) = member.needs.documents
        if member.left_out == "locked":
            self._keep_contended(document)
        self.unchanged.add(member)

    def _keep_contended(self, document: DocumentKey) -> None:
        if document not in self.recent:
            self._loop.call_later(CONTENDED_S, self._expire, document)
        self.recent[document] = self._loop.time() + CONTENDED_S

    def _expire(self, document: DocumentKey) -> None:
        left_s = self.recent[document] - self._loop.time()
        if left_s > 0:
            self._loop.call_later(left_s, self._expire, document)
        else:
            del self.recent[document]

    def _wait_for_lock(self, member: Member) -> None:
        (document,) = member.needs.documents
        self.waiting.setdefault(document, deque()).append(member)
        self._arrival.set()

    async def _run(self) -> None:
        while self.waiting or self._apart or not self._stopping:
            free = (document for document in self.waiting if document not in self._apart)
            documents = list(islice(free, MAX_CHANGES))
            if not documents:
                self._arrival.clear()
                await self._arrival.wait()
            elif not await self._write(documents, SHARED_LOCK_TIMEOUT_MS, takes_others=True):
                for document in documents:
                    task = self._loop.create_task(self._write_apart(document), name="write-apart")
                    self._apart[document] = task

    async def _write_apart(self, document: DocumentKey) -> None:
        """Try to write one document's writes until its lock is taken, or no write is left."""
        try:
            while document in self.waiting and not await self._write([document], LOCK_TIMEOUT_MS):
                self._refuse(document)
        finally:
            del self._apart[document]
            self._arrival.set()

    def _refuse(self, document: DocumentKey) -> None:
        """Refuse the writes that have waited for LOCK_TIMEOUT_MS."""
        oldest = time.monotonic() - LOCK_TIMEOUT_MS / 1000
        waiting = self.waiting.pop(document, deque())
        while waiting and waiting[0].arrived <= oldest:
            waiting.popleft().fail(Busy(HELD_TOO_LONG))
        if waiting:
            self.waiting[document] = waiting

    async def _write(
        self, documents: Sequence[DocumentKey], lock_timeout_ms: int, *, takes_others: bool = False
    ) -> bool:
        """Wait for the documents' locks, and write the waiting writes; False: a lock was not free in time.

        `takes_others`: also the writes to other documents that have arrived in the meantime, if their locks
        are free.
        """
        members: list[Member] = []
        step = partial(self._step, documents=documents, members=members, takes_others=takes_others)
        try:
            await self._transactions.run_alone(step, lock_timeout_ms, members)
        except Exception as error:  # noqa: BLE001 - the members are answered, or written alone
            if not members and isinstance(error.__cause__, asyncpg.LockNotAvailableError):
                return False
            self._not_written(members or self._take(documents), error)
            return True
        except asyncio.CancelledError:
            for member in members:
                member.interrupt()
            raise
        for member in reversed(members):
            if member.answer is None:
                self._put_back(member, documents)
        for member in members:
            member.settle()
        return True

    def _put_back(self, member: Member, locked: Sequence[DocumentKey]) -> None:
        """Let the write wait for its document's lock; if that was locked, pass the write on."""
        (document,) = member.needs.documents
        if document in locked or member.left_out != "locked":
            self._left_out(member)
        else:
            self.waiting.setdefault(document, deque()).appendleft(member)

    async def _step(
        self,
        connection: "Connection",
        documents: Sequence[DocumentKey],
        members: list[Member],
        *,
        takes_others: bool,
    ) -> Witness | None:
        """Lock the documents, then execute the writes that have arrived by now."""
        began = time.monotonic()
        waited_s = await connection.fetchval(LOCK, *zip(*documents, strict=True))
        self._measures.steps.wait.add(time.monotonic() - began)
        if not members:  # a retry has the members of the attempt before
            others = [each for each in self.waiting if each not in self._apart]
            members += self._take(dict.fromkeys([*documents, *(others if takes_others else ())]))
            if members:
                self._measures.taken(members)
        if waited_s > WAITED_S:
            for document in {*documents, *(each for m in members for each in m.needs.documents)}:
                self._keep_contended(document)
        for member in members:
            member.answer = None
        return await self._executor.execute(connection, members, wait=False)

    def _take(self, documents: Iterable[DocumentKey]) -> list[Member]:
        members: list[Member] = []
        room = MAX_CHANGES
        for document in documents:
            if document not in self.waiting:
                continue
            group = take_group(self.waiting[document], room)
            if not self.waiting[document]:
                del self.waiting[document]
            members += group
            room -= sum(member.needs.size for member in group)
        return members
