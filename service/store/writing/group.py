"""Group commit: writes that arrive while a transaction is in flight are written together in the next."""

import asyncio
import time
from collections import deque
from collections.abc import Sequence
from contextlib import suppress
from functools import partial
from types import TracebackType
from typing import Final, Self, cast

from service.core.entities import EntityWrite
from service.core.errors import Unavailable
from service.core.ids import IdSource
from service.core.values import DocumentKey
from service.core.writes import Progress, Reply, Write
from service.logs import get_logger
from service.store.database import Database, Session, roll_back, terminate, unavailable
from service.store.writing.contended import ContendedWriter
from service.store.writing.counts import LinkCounter
from service.store.writing.execute import Context, Member, execute, take_group
from service.store.writing.notify import Notifier
from service.store.writing.transaction import NotCommitted, transact, transact_alone
from service.store.writing.turns import Turns
from service.supervision import Supervisor

LARGE_CHANGES: Final = 100
"""A write with more changes has a transaction of its own, so that no other write waits for it."""
AHEAD_S: Final = 0.1
"""How long a transaction that was begun ahead waits for its first write. Its `now()` is already fixed."""
ANSWER_S: Final = 0.005
"""The longest time that the reply to a committed write is held back."""
DRAIN_TIMEOUT_S: Final = 10.0
"""The longest wait at shutdown for the writes that have begun or are queued."""

log = get_logger(__name__)


class GroupWriter:
    """The writer of this process: a queue, one connection, and a task that serves both.

    More connections make it no faster: with one, the next group fills while a transaction is in flight.
    The message of each COMMIT also begins the next transaction, which saves one round trip of four.
    """

    def __init__(
        self,
        database: Database,
        notifier: Notifier,
        supervisor: Supervisor,
        *,
        register_unknown: bool,
        ids: IdSource,
    ) -> None:
        context = Context(register_unknown, LinkCounter(), ids)
        self._execute = partial(execute, context=context)
        self._database = database
        self._notifier = notifier
        self._turns = Turns()
        self._supervisor = supervisor
        self._contended = ContendedWriter(
            database, notifier, self._execute, self._write_alone, self._not_written
        )
        self._queue: deque[Member] = deque()
        self._arrival = asyncio.Event()
        self._stopping = False
        self._connection: Session | None = None
        self._durable: list[Member] = []
        self._in_flight: list[Member] = []
        self._alone: set[asyncio.Task[None]] = set()

    async def __aenter__(self) -> Self:
        self._loop = asyncio.get_running_loop()  # asking costs a system call, before Python 3.12
        self._task = self._supervisor.start("group-writer", self._run, self._run_ended)
        self._contended.start(self._supervisor)
        return self

    async def __aexit__(
        self, _: type[BaseException] | None, __: BaseException | None, ___: TracebackType | None
    ) -> None:
        """Write the queued writes, then stop."""
        self._stopping = True
        self._arrival.set()
        await self._task.stop(DRAIN_TIMEOUT_S)
        await self._contended.stop(DRAIN_TIMEOUT_S)
        if self._alone:
            await asyncio.wait(self._alone, timeout=DRAIN_TIMEOUT_S)
        self._drop_connection()

    async def write(self, write: Write) -> Reply:
        """Write, together with other writes if possible, and return the reply after COMMIT.

        Raises:
            Refusal: nothing was written; only Unavailable may say that this is not known.
        """
        member = self._member(write)
        if member.size > LARGE_CHANGES:
            self._write_alone(member)
        else:
            self._queue.append(member)
            self._arrival.set()
        return cast("Reply", await member.future)

    async def write_entity(self, write: EntityWrite) -> Reply | Progress:
        """Write in a transaction of its own; as `write`, or return how far the call is."""
        member = self._member(write)
        self._write_alone(member)
        return await member.future

    def _member(self, write: Write) -> Member:
        return Member(write, self._loop.create_future(), arrived=time.monotonic())

    def _run_ended(self) -> None:
        """Answer the callers whose transaction was in flight when the task failed; it is started again."""
        self._drop_connection()
        self._answer()
        for member in self._in_flight:
            member.interrupt()
        self._in_flight = []
        self._arrival.set()

    def _drop_connection(self) -> None:
        if self._connection is not None:
            terminate(self._connection)
            self._connection = None

    async def _run(self) -> None:
        while self._queue or not self._stopping:
            self._in_flight = members = self._next_group()
            if not members:
                if not self._queue:
                    self._arrival.clear()
                    await self._idle()
                continue
            try:
                await self._write_together(members)
            except Exception as error:  # noqa: BLE001 - the members are answered, or written alone
                self._not_written(members, error)

    def _not_written(self, members: Sequence[Member], error: Exception) -> None:
        """Answer the members if the database is unavailable; otherwise write them one by one.

        So no caller gets the error of another caller's write.
        """
        try:
            with unavailable():
                raise error  # noqa: TRY301 - the clauses below sort it
        except Unavailable as refusal:
            for member in members:
                member.fail(refusal)
            return
        except NotCommitted:
            pass  # the connection broke: no member is at fault
        except Exception:
            ids = [member.write.caller.request_id for member in members]
            log.exception("write.group_failed", members=len(ids), request_ids=ids)
        for member in members:
            self._write_alone(member)

    async def _idle(self) -> None:
        """Wait for a write; after AHEAD_S, roll back the transaction that was begun ahead."""
        if self._connection is not None and _is_begun(self._connection):
            with suppress(TimeoutError):
                async with asyncio.timeout(AHEAD_S):
                    await self._arrival.wait()
                    return
            await roll_back(self._connection)
        await self._arrival.wait()

    def _next_group(self) -> list[Member]:
        """Take the members of the next joint transaction; pass on writes to contended documents."""
        group: list[Member] = []
        for member in take_group(self._queue):
            documents = member.write.documents
            if not any(map(self._is_contended, documents)):
                group.append(member)
            elif len(documents) == 1:
                self._contended.add(member, documents.pop())
            else:
                self._write_alone(member)
        return group

    def _is_contended(self, document: DocumentKey) -> bool:
        """Whether another write of this process waits for the document's lock, or has just waited.

        A joint transaction does not queue for locks, so it would take the lock before that write each
        time that the lock is free.
        """
        return (
            document in self._contended.waiting
            or document in self._contended.recent
            or document in self._turns.users
        )

    async def _write_together(self, members: Sequence[Member]) -> None:
        if self._connection is None or not _is_begun(self._connection):
            self._connection = await self._database.refreshed(self._connection)
        step = partial(self._execute, members=members, wait=False, on_read=self._answer)
        witness = await transact(self._database, self._connection, step)
        self._notifier.committed(witness)
        for member in members:
            if member.answer is None:
                self._write_later(member)
        self._answer()
        self._durable = [member for member in members if member.answer is not None]
        if self._queue:
            self._loop.call_later(ANSWER_S, self._answer)
        else:
            self._answer()

    def _answer(self) -> None:
        """Answer the members of the last transaction, which is committed.

        If writes are queued, this happens while Postgres saves the next transaction. The answered
        callers send their next requests, and reading these takes as long as saving; between two
        statements of a transaction it would keep Postgres waiting.
        """
        for member in self._durable:
            member.settle()
        self._durable = []

    def _write_later(self, member: Member) -> None:
        """Write a member that the joint transaction could not: a row is locked elsewhere, or is missing."""
        documents = member.write.documents
        if member.locked_elsewhere and len(documents) == 1:
            self._contended.add_locked(member, documents.pop())
        else:
            self._write_alone(member)

    def _write_alone(self, member: Member) -> None:
        task = asyncio.create_task(self._transact_alone(member), name="write-alone")
        self._alone.add(task)
        task.add_done_callback(self._alone.discard)

    async def _transact_alone(self, member: Member) -> None:
        step = partial(self._execute, members=[member], wait=True)
        try:
            async with self._turns.take(member.write.documents):
                if member.future.done():
                    return  # the caller has disconnected, and the write has not begun
                timeout_ms = member.write.lock_timeout_ms
                witness = await transact_alone(self._database, step, lock_timeout_ms=timeout_ms)
        except Exception as error:  # noqa: BLE001 - the caller gets every error
            member.fail(error)
            return
        except asyncio.CancelledError:
            member.interrupt()
            raise
        self._notifier.committed(witness)
        member.settle()


def _is_begun(session: Session) -> bool:
    """Whether a transaction is open on the session."""
    return not session.is_closed() and session.is_in_transaction()
