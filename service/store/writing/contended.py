"""Requests for documents that another transaction has locked: they wait together, and commit together.

The joint transaction of the group writer takes locks that are free and waits for none. A process
that waited in the same way, by trying again, would be overtaken by the others without end; one
transaction a request would pay one COMMIT each. So all requests of this process that wait for a lock
share one transaction: it waits in Postgres' queue for the lock, which is first come, first served,
and when it has the lock it writes every request that has arrived until then.

Usually that is one transaction for all contended documents of the process. A document whose lock is
not free in time gets a transaction of its own, so that the others do not wait for it.
"""

import asyncio
import time
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from itertools import islice
from typing import TYPE_CHECKING, Final

import asyncpg

from service.core.changes import DocumentKey
from service.core.errors import Unavailable
from service.logs import get_logger
from service.store.database import Database
from service.store.writing.execute import MAX_CHANGES, Member, take_group
from service.store.writing.notify import Notifier
from service.store.writing.transaction import LOCK_TIMEOUT_MS, Witness, transact_alone
from service.supervision import Supervisor

if TYPE_CHECKING:
    from service.store.database import Connection

SHARED_LOCK_TIMEOUT_MS: Final = 250
"""Of the transaction that waits for several documents. The processes that write to a document hold its
lock for some 10 ms each; what takes longer is a large write, or a session that stands still."""

CONTENDED_S: Final = 0.2
"""How long requests for a document come here at once after its lock was not free, in seconds. Then the
joint transaction tries again, since most documents are contended for a moment only."""

# In the order in which lock_links locks documents.
LOCK: Final = """
SELECT count(*)
FROM (SELECT * FROM unnest($1::uuid[], $2::text[]) AS u (w, d) ORDER BY w, d) AS u
CROSS JOIN LATERAL (
    SELECT true FROM documents AS d WHERE d.workspace_id = u.w AND d.id = u.d FOR NO KEY UPDATE
) AS l
"""

Execute = Callable[..., Awaitable[Witness | None]]

log = get_logger(__name__)


class ContendedWriter:
    """Writes the requests of this process whose one document is locked elsewhere."""

    def __init__(
        self,
        database: Database,
        notifier: Notifier,
        execute: Execute,
        write_alone: Callable[[Member], None],
    ) -> None:
        self._database = database
        self._notifier = notifier
        self._execute = execute
        self._write_alone = write_alone
        self.waiting: dict[DocumentKey, deque[Member]] = {}
        """Requests that wait for the lock of a document."""
        self.recent: set[DocumentKey] = set()
        """Documents whose lock was not free within the last CONTENDED_S."""
        self._apart: dict[DocumentKey, asyncio.Task[None]] = {}
        self._arrival = asyncio.Event()
        self._stopping = False

    def start(self, supervisor: Supervisor) -> None:
        """Begin to serve."""
        self._loop = asyncio.get_running_loop()
        self._task = supervisor.start("contended-writer", self._run, self._arrival.set)

    async def stop(self, timeout_s: float) -> None:
        """Write what waits, then end."""
        self._stopping = True
        self._arrival.set()
        await self._task.stop(timeout_s)

    def add(self, member: Member, document: DocumentKey) -> None:
        """Let the request wait for its document."""
        self.waiting.setdefault(document, deque()).append(member)
        self._arrival.set()

    def add_locked(self, member: Member, document: DocumentKey) -> None:
        """Let the request wait for its document, which was found locked."""
        if document not in self.recent:
            self.recent.add(document)
            self._loop.call_later(CONTENDED_S, self.recent.discard, document)
        self.add(member, document)

    async def _run(self) -> None:
        while self.waiting or self._apart or not self._stopping:
            free = (document for document in self.waiting if document not in self._apart)
            documents = list(islice(free, MAX_CHANGES))
            if not documents:
                self._arrival.clear()
                await self._arrival.wait()
            elif not await self._write(documents, SHARED_LOCK_TIMEOUT_MS):
                for document in documents:
                    task = self._loop.create_task(self._write_apart(document), name="write-apart")
                    self._apart[document] = task

    async def _write_apart(self, document: DocumentKey) -> None:
        """Write one document's requests, until its lock is had or none is left."""
        try:
            while document in self.waiting and not await self._write([document], LOCK_TIMEOUT_MS):
                self._refuse(document)
        finally:
            del self._apart[document]
            self._arrival.set()

    def _refuse(self, document: DocumentKey) -> None:
        """Answer those that waited for the lock as long as anybody has to."""
        oldest = time.monotonic() - LOCK_TIMEOUT_MS / 1000
        waiting = self.waiting.pop(document, deque())
        while waiting and waiting[0].arrived <= oldest:
            detail = "somebody else is writing to it for too long; nothing was written"
            waiting.popleft().fail(Unavailable(detail))
        if waiting:
            self.waiting[document] = waiting

    async def _write(self, documents: Sequence[DocumentKey], lock_timeout_ms: int) -> bool:
        """Wait for the documents' locks, write what waits for them; False: a lock was not free in time."""
        members: list[Member] = []
        step = partial(self._step, documents=documents, members=members)
        try:
            witness = await transact_alone(self._database, step, lock_timeout_ms=lock_timeout_ms)
        except Unavailable as refusal:
            if not members and isinstance(refusal.__cause__, asyncpg.LockNotAvailableError):
                return False
            for member in members or self._take(documents):
                member.fail(refusal)
            return True
        except Exception:
            ids = [member.write.caller.request_id for member in members]
            log.exception("write.group_failed", members=len(ids), request_ids=ids)
            for member in members or self._take(documents):
                self._write_alone(member)
            return True
        except asyncio.CancelledError:
            detail = "the writer was interrupted: whether it was written is not known"
            for member in members:
                member.fail(Unavailable(detail))
            raise
        if witness is not None and witness.event_id is not None:
            self._notifier.due.set()
        self._settle(members)
        return True

    async def _step(
        self, connection: "Connection", documents: Sequence[DocumentKey], members: list[Member]
    ) -> Witness | None:
        """Lock the documents; then write whatever waits for them by now, in the transaction."""
        await connection.fetchval(LOCK, *zip(*documents, strict=True))
        if not members:  # otherwise an attempt before this one failed
            members += self._take(documents)
        for member in members:
            member.answer = None
        return await self._execute(connection, members, wait=False)

    def _take(self, documents: Sequence[DocumentKey]) -> list[Member]:
        members: list[Member] = []
        room = MAX_CHANGES
        for document in documents:
            if document not in self.waiting:
                continue
            group = take_group(self.waiting[document], room)
            if not self.waiting[document]:
                del self.waiting[document]
            members += group
            room -= sum(member.size for member in group)
        return members

    def _settle(self, members: Sequence[Member]) -> None:
        """Answer what is durable; what lacks another lock or a row is written alone."""
        for member in members:
            if member.answer is None:
                self._write_alone(member)
            else:
                member.settle()
