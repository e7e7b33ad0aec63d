"""Group commit: writes that arrive while a transaction is in flight are written together in the next."""

import asyncio
import time
from collections import deque
from collections.abc import Sequence
from contextlib import suppress
from functools import partial
from typing import Final, Literal, Self

from service.core.values import DocumentKey
from service.core.writes import Reply, Write
from service.incident import Incident
from service.logs import get_logger
from service.store.database import Session, as_refusal, roll_back, terminate
from service.store.writing.alone import AloneWriter
from service.store.writing.cascade import Cascade
from service.store.writing.contended import ContendedWriter
from service.store.writing.execute import Executor, Member, take_group
from service.store.writing.lone import LoneWriter, is_plain
from service.store.writing.transaction import NotCommitted, Transactions
from service.supervision import QUIET_S, Supervisor

TransactionKind = Literal["joint", "contended", "alone"]

LARGE_CHANGES: Final = 100
"""A write with more changes has a transaction of its own, so that no other write waits for it."""
AHEAD_S: Final = 0.1
"""How long a transaction that was begun ahead waits for its first write. Its `now()` is already fixed."""
LONE_IN_A_ROW: Final = 2
"""After so many lone links in a row the next transaction is not begun ahead: a link will need none."""
LONE_PAUSE: Final = 8
"""After a lone link that one statement did not write, so many links are written in joint transactions."""
ANSWER_S: Final = 0.005
"""The longest time that the reply to a committed write is held back."""
DRAIN_TIMEOUT_S: Final = 10.0
"""The longest wait at shutdown for the writes that have begun or are queued."""

log = get_logger(__name__)


class GroupWriter:
    """The writer of this process. Its joint transactions have a queue, one connection, and a task for both.

    More connections make it no faster: with one, the next group fills while a transaction is in flight.
    The message of each COMMIT also begins the next transaction, which saves one round trip of four.
    """

    def __init__(
        self, transactions: Transactions, executor: Executor, supervisor: Supervisor
    ) -> None:
        self._database = transactions.database
        self._supervisor = supervisor
        self._measures = transactions.database.measures
        self._executor = executor
        self._transactions = transactions
        self._contended = ContendedWriter(
            self._transactions,
            self._executor,
            partial(self._pass_on, tried="contended"),
            self._not_written,
        )
        cascade = Cascade(self._transactions, self._executor, self.write)
        self._alone = AloneWriter(self._transactions, self._executor, cascade)
        self._lone = LoneWriter(self._transactions, self._executor)
        self._lone_in_a_row = 0
        """How many of the last writes were lone links; negative during a pause."""
        self._queue: deque[Member] = deque()
        self._arrival = asyncio.Event()
        self._stopping = False
        self._connection: Session | None = None
        self._durable: list[Member] = []
        self._in_flight: list[Member] = []
        self._defects = Incident(QUIET_S)

    async def __aenter__(self) -> Self:
        self._loop = asyncio.get_running_loop()  # asking costs a system call, before Python 3.12
        self._transactions.notifier.start()
        self._task = self._supervisor.start("group-writer", self._run, self._run_ended)
        self._contended.start(self._supervisor)
        return self

    async def __aexit__(self, *_: object) -> None:
        """Write the queued writes, then stop."""
        await self._alone.stop(DRAIN_TIMEOUT_S)  # first: the deletion of an entity needs the others
        self._stopping = True
        self._arrival.set()
        await self._task.stop(DRAIN_TIMEOUT_S)
        await self._contended.stop(DRAIN_TIMEOUT_S)
        await self._alone.stop(DRAIN_TIMEOUT_S)
        self._drop_connection()
        await self._transactions.notifier.stop()

    async def write(self, write: Write) -> Reply:
        """Write, together with other writes if possible, and return the reply after COMMIT.

        Raises:
            Refusal: nothing was written; only Unavailable may say that this is not known.
        """
        member = Member(write, self._loop.create_future(), arrived=time.monotonic())
        self._pass_on(member)
        return await member.future

    def queued(self) -> tuple[int, float]:
        """Return how many writes no transaction has taken yet, and the age of the oldest, in seconds."""
        contended = self._contended
        queues = (
            *(self._queue, contended.unchanged.waiting, self._alone.waiting),
            *contended.waiting.values(),
        )
        arrivals = [next(iter(queue)).arrived for queue in queues if queue]
        oldest_s = time.monotonic() - min(arrivals) if arrivals else 0.0
        return sum(map(len, queues)), oldest_s

    def _kind_of(self, member: Member, tried: TransactionKind | None) -> TransactionKind:
        """Choose one of the three kinds that the package's docstring explains.

        `tried` is the kind that has left the write without an answer; None: this is the first choice.
        """
        needs = member.needs
        if needs.entity is not None or needs.size > LARGE_CHANGES or tried == "contended":
            return "alone"
        if tried is None and not any(map(self._is_contended, needs.documents)):
            return "joint"
        contended = tried is None or member.left_out == "locked"
        return "contended" if contended and len(needs.documents) == 1 else "alone"

    def _is_contended(self, document: DocumentKey) -> bool:
        """Whether another write of this process waits for the document's lock, or has just waited.

        A joint transaction does not queue for locks, so it would take the lock before that write each
        time that the lock is free.
        """
        return (
            document in self._contended.waiting
            or document in self._contended.recent
            or document in self._alone.documents
        )

    def _pass_on(self, member: Member, tried: TransactionKind | None = None) -> None:
        """Queue the write for its kind of transaction."""
        if member.left_out is not None and tried is not None:
            self._measures.calls_retried[member.left_out] += 1
        kind = self._kind_of(member, tried)
        if kind == "joint":
            self._queue.append(member)
            self._arrival.set()
        elif kind == "contended":
            self._contended.add(member)
        else:
            self._alone.add(member)

    def _next_group(self) -> list[Member]:
        """Take the members of the next joint transaction; pass on those that have become contended."""
        members = take_group(self._queue)
        contended = self._contended
        if not (contended.waiting or contended.recent or self._alone.documents):
            return members  # no document is contended
        group: list[Member] = []
        for member in members:
            if self._kind_of(member, None) == "joint":
                group.append(member)
            else:
                self._pass_on(member)
        return group

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
                await self._write_group(members)
                if self._defects.lasts:
                    self._defects.succeed()
            except Exception as error:  # noqa: BLE001 - the members are answered, or written alone
                self._not_written(members, error)

    def _not_written(self, members: Sequence[Member], error: Exception) -> None:
        """Answer the members if the database is unavailable; otherwise write them one by one.

        So no caller gets the error of another caller's write. After NotCommitted no member is at fault: the
        connection broke.
        """
        if (refusal := as_refusal(error)) is not None:
            for member in members:
                member.fail(refusal)
            return
        reason = "interrupted" if isinstance(error, NotCommitted) else "failed"
        self._measures.calls_retried[reason] += len(members)
        if not isinstance(error, NotCommitted) and self._defects.fail(type(error).__name__):
            ids = [member.write.caller.request_id for member in members]
            log.error("write.group_failed", members=len(ids), request_ids=ids, exc_info=error)
        for member in members:
            self._alone.add(member)

    async def _idle(self) -> None:
        """Wait for a write; after AHEAD_S, roll back the transaction that was begun ahead."""
        if self._connection is not None and _is_begun(self._connection):
            with suppress(TimeoutError):
                async with asyncio.timeout(AHEAD_S):
                    await self._arrival.wait()
                    return
            await roll_back(self._connection)
        await self._arrival.wait()

    async def _write_group(self, members: Sequence[Member]) -> None:
        self._measures.taken(members)
        session = self._connection
        if session is None or not _is_begun(session):
            self._connection = session = await self._database.refreshed(session)
        is_lone = len(members) == 1 and is_plain(members[0].write)
        self._lone_in_a_row = self._lone_in_a_row + 1 if is_lone else min(self._lone_in_a_row, 0)
        if is_lone and self._lone_in_a_row > 0 and self._lone.fits(session):
            (member,) = members
            if await self._lone.write(session, member):
                member.settle()
                return
            self._lone_in_a_row = -LONE_PAUSE
            if member.left_out is not None:
                self._pass_on(member, tried="joint")
                return
        await self._write_together(session, members)

    async def _write_together(self, session: Session, members: Sequence[Member]) -> None:
        execute = self._executor.execute
        step = partial(execute, members=members, wait=False, on_read=self._answer)
        await self._transactions.run(session, step, begins_next=self._begins_next)
        for member in members:
            if member.answer is None:
                self._pass_on(member, tried="joint")
        self._answer()
        self._durable = [member for member in members if member.answer is not None]
        if self._queue:
            self._loop.call_later(ANSWER_S, self._answer)
        else:
            self._answer()

    def _begins_next(self) -> bool:
        """Whether the next transaction is begun ahead: not if the next write is likely to be a lone link."""
        return bool(self._queue) or self._lone_in_a_row < LONE_IN_A_ROW

    def _answer(self) -> None:
        """Answer the members of the last transaction, which is committed.

        If writes are queued, this happens while Postgres saves the next transaction. The answered
        callers send their next requests, and reading these takes as long as saving; between two
        statements of a transaction it would keep Postgres waiting.
        """
        for member in self._durable:
            member.settle()
        self._durable = []


def _is_begun(session: Session) -> bool:
    """Whether a transaction is open on the session."""
    return not session.is_closed() and session.is_in_transaction()
