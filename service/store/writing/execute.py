"""The steps between BEGIN and COMMIT: lock and read, decide, save; for one write or for many."""

import asyncio
import time
from collections import deque
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Final, Literal, cast

from service.core.entities import EntityWrite
from service.core.errors import Busy, IdempotencyMismatch, Refusal, Unavailable
from service.core.ids import IdSource
from service.core.values import MAX_LINKS, DocumentKey, LinkKey
from service.core.writes import Progress, Reply, Slices, State, Write
from service.measures import Measures
from service.store.writing.counts import LinkCounter
from service.store.writing.entities import EVENTS_IN_SLICE, Chunk, lock_entity, unlink_entity
from service.store.writing.replies import lock_scopes
from service.store.writing.rows import StoredReply, lock_all, lock_free, save
from service.store.writing.witness import Witness

if TYPE_CHECKING:
    from service.core.links import LinksWrite
    from service.store.database import Connection

MAX_CHANGES: Final = 500
"""The most changes in one joint transaction. It bounds how long other writes wait, and the memory."""
MAX_WAIT_S: Final = 5.0
"""The longest time in a queue. After it the caller is answered 503."""

LeftOut = Literal["locked", "rows_missing", "key_in_flight"]
"""Why a transaction that waits for no lock has left a write without an answer.

locked: another transaction has locked a document or an entity of its links. rows_missing: a row does not
exist, or the document that it reads whole is locked or has many links. key_in_flight: another transaction
has locked its idempotency scope.
"""

MISMATCH: Final = "this Idempotency-Key was used with another query string or body: take a new one"


class Member:
    """A write, and the future that its caller awaits."""

    __slots__ = ("answer", "arrived", "future", "left_out", "needs", "scope", "write")

    def __init__(self, write: Write, future: asyncio.Future[Reply], arrived: float) -> None:
        self.write = write
        self.needs = write.needs
        self.arrived = arrived
        self.future = future
        self.answer: Reply | Progress | Refusal | None = None
        """Set before COMMIT, sent after it. None: this transaction could not write it."""
        self.left_out: LeftOut | None = None
        """Why a transaction has left the write without an answer; None: none has."""
        key = write.idempotency
        self.scope = None if key is None else (write.caller.workspace_id, key.scope)

    def settle(self) -> None:
        """Give the caller the prepared answer; called after COMMIT."""
        if self.future.done():
            return  # the caller has disconnected
        if isinstance(self.answer, Refusal):
            self.future.set_exception(self.answer)
        elif isinstance(self.answer, Reply):
            self.future.set_result(self.answer)

    def fail(self, error: BaseException) -> None:
        """Give the caller an error."""
        if not self.future.done():
            self.future.set_exception(error)

    def interrupt(self) -> None:
        """Tell the caller that its transaction was interrupted, perhaps after COMMIT was sent."""
        self.fail(Unavailable("the writer was interrupted: whether it was written is not known"))


def take_group(queue: deque[Member], room: int = MAX_CHANGES) -> list[Member]:
    """Remove from the queue the writes of the next transaction, with at most `room` changes.

    A write whose caller has disconnected is dropped; one that has waited longer than MAX_WAIT_S is refused.
    Of several writes with one Idempotency-Key only the first is taken: the next one has to read its reply.
    """
    group: list[Member] = []
    put_off: list[Member] = []
    scopes = set()
    oldest = time.monotonic() - MAX_WAIT_S
    while queue and room >= queue[0].needs.size:
        member = queue.popleft()
        if member.future.done():
            continue
        if member.arrived < oldest:
            member.fail(Busy("the database does not keep up; nothing was written"))
        elif member.scope is not None and member.scope in scopes:
            put_off.append(member)
        else:
            scopes.add(member.scope)
            group.append(member)
            room -= member.needs.size
    queue.extendleft(reversed(put_off))
    return group


class Executor:
    """Executes the steps between BEGIN and COMMIT.

    `register_unknown`: the entity policy is `any`, so unknown entities are registered when they are linked.
    """

    def __init__(self, ids: IdSource, measures: Measures, *, register_unknown: bool) -> None:
        self.ids = ids
        self._measures = measures
        self._register_unknown = register_unknown
        self._counter = LinkCounter(measures)

    async def execute(
        self,
        connection: "Connection",
        members: Sequence[Member],
        *,
        wait: bool,
        on_read: Callable[[], None] = lambda: None,
    ) -> Witness | None:
        """Lock, read, decide and save the members' writes; each `answer` is valid after COMMIT.

        With `wait`, the one member waits for locks, and its missing rows are inserted. Without, a member
        whose rows are missing or locked by another transaction is left without an answer. `on_read` is called
        before deciding; tasks that it wakes up run while Postgres saves.

        Returns:
            A row that only this transaction wrote; None if it wrote nothing.

        Raises:
            Appeared: another transaction inserted or removed a row between two statements; retry.
        """
        measures = self._measures
        members = await _without_replayed(connection, members, measures, wait=wait)
        if not members:
            return None
        state = State(self.ids)
        began = time.monotonic()
        if wait:
            (member,) = members
            await self._lock_waiting(connection, state, member)
        else:
            whole = {member.needs.whole for member in members if member.needs.whole is not None}
            writes = [member.write for member in members]
            locked = await lock_free(connection, state, writes, whole)
            members = [member for member in members if self._can_write(member, state, locked)]
        measures.steps.lock.add(time.monotonic() - began)
        more = sum(member.needs.size for member in members)
        if near := _near_the_bound(state, more):
            await self._counter.count(connection, state, near, more)
        on_read()
        replies, witness = await _decide(connection, state, members, measures)
        saved = await _save(connection, state, measures, replies)
        return witness or saved

    async def unlink_free(
        self, connection: "Connection", write: EntityWrite, chunk: Chunk
    ) -> Witness | None:
        """Remove a chunk of a deleted entity's links, with their events.

        Skips the links whose documents another transaction has locked. `chunk.removed` is valid after COMMIT.
        """
        state = State(self.ids)
        began = time.monotonic()
        removed = await unlink_entity(connection, state, write.key, chunk)
        self._measures.steps.lock.add(time.monotonic() - began)
        for start in range(0, len(removed), EVENTS_IN_SLICE):
            write.make_events(state, removed[start : start + EVENTS_IN_SLICE])
            await asyncio.sleep(0)  # let other tasks run
        return await _save(connection, state, self._measures)

    def answer_lone(
        self, member: Member, state: State, *, is_locked: bool, is_written: bool
    ) -> bool:
        """Decide a write that one statement has written, or not; whether it needs no other transaction."""
        locked_elsewhere = set() if is_locked else set(member.write.links(state))
        if not self._can_write(member, state, locked_elsewhere):
            return False
        try:
            reply = cast("LinksWrite", member.write).decide(state)
        except Refusal as refusal:
            member.answer = refusal
            return True
        if is_written is bool(state.unsaved.links):
            member.answer = reply
        return member.answer is not None

    async def _lock_waiting(self, connection: "Connection", state: State, member: Member) -> None:
        """Wait for the locks of one write, and insert its missing rows."""
        needs, unknown = member.needs, self._register_unknown
        if needs.entity is not None:
            await lock_entity(connection, state, needs.entity, registers=needs.makes_row)
        else:
            await lock_all(connection, state, member.write, needs, register_unknown=unknown)

    def _can_write(self, member: Member, state: State, locked_elsewhere: set[LinkKey]) -> bool:
        """Whether all rows that the member needs exist, and are locked and read."""
        write, whole = member.write, member.needs.whole
        if locked_elsewhere and not locked_elsewhere.isdisjoint(write.links(state)):
            member.left_out = "locked"
        elif (whole is not None and whole not in state.rows) or (
            self._register_unknown and write.unknown_entities(state)
        ):
            member.left_out = "rows_missing"
        else:
            return True
        return False


def _near_the_bound(state: State, more: int) -> list[DocumentKey]:
    """Return the documents that might exceed MAX_LINKS with `more` links, according to their version."""
    return [
        key
        for key, document in state.documents.items()
        if document.active is None and document.version + more > MAX_LINKS
    ]


async def _decide(
    connection: "Connection", state: State, members: Sequence[Member], measures: Measures
) -> tuple[list[StoredReply], Witness | None]:
    """Prepare each member's answer; return the replies to store, and the witness of slices saved already."""
    witness: Witness | None = None
    replies: list[StoredReply] = []
    for member in members:
        write = member.write
        try:
            reply = write.decide(state)
            if not isinstance(reply, Reply | Progress):
                reply, saved = await _in_slices(connection, state, reply, measures)
                witness = witness or saved
        except Refusal as refusal:
            member.answer = refusal
            continue
        member.answer = reply
        if write.idempotency is not None and isinstance(reply, Reply):
            workspace_id = write.caller.workspace_id
            replies.append(StoredReply(workspace_id, *write.idempotency, reply.status, reply.body))
    return replies, witness


async def _in_slices(
    connection: "Connection", state: State, slices: Slices, measures: Measures
) -> tuple[Reply, Witness | None]:
    """Decide slice by slice, and save each slice."""
    witness = None
    while True:
        try:
            next(slices)
        except StopIteration as end:
            return end.value, witness
        saved = await _save(connection, state, measures)
        state.forget_saved()
        witness = witness or saved
        if saved is None:
            await asyncio.sleep(0)  # no statement was awaited: let other tasks run


async def _save(
    connection: "Connection",
    state: State,
    measures: Measures,
    replies: Sequence[StoredReply] = (),
) -> Witness | None:
    began = time.monotonic()
    witness = await save(connection, state, replies)
    if witness is not None:  # None: no statement was sent
        measures.steps.save.add(time.monotonic() - began)
    return witness


async def _without_replayed(
    connection: "Connection", members: Sequence[Member], measures: Measures, *, wait: bool
) -> Sequence[Member]:
    """Answer the members whose reply is stored, and return those that can be written.

    Members whose scope another transaction has locked are neither answered nor returned.
    """
    keyed = [(member, key) for member in members if (key := member.write.idempotency) is not None]
    if not keyed:
        return members
    scopes = [(member.write.caller.workspace_id, key) for member, key in keyed]
    left_out = set()
    began = time.monotonic()
    found = await lock_scopes(connection, scopes, wait=wait)
    measures.steps.replies.add(time.monotonic() - began)
    for (member, idempotency), stored in zip(keyed, found, strict=True):
        if stored is True:
            continue
        left_out.add(member)
        if stored is False:
            member.left_out = "key_in_flight"
            continue
        fingerprint, reply = stored
        same = fingerprint == idempotency.fingerprint
        member.answer = reply if same else IdempotencyMismatch(MISMATCH)
        measures.replies_replayed += same
    return [member for member in members if member not in left_out]
