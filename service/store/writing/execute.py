"""The steps between BEGIN and COMMIT: lock and read, decide, save; for one write or for many."""

import asyncio
import time
from collections import deque
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Final

from msgspec import Struct

from service.core.documents import DocumentWrite
from service.core.errors import IdempotencyMismatch, Refusal, Unavailable
from service.core.ids import IdSource
from service.core.values import MAX_LINKS, LinkKey
from service.core.writes import Progress, Reply, Slices, State, Write
from service.store.writing.counts import LinkCounter
from service.store.writing.locking import lock_all, lock_free
from service.store.writing.replies import lock_scopes
from service.store.writing.saving import StoredReply, save
from service.store.writing.transaction import Witness

if TYPE_CHECKING:
    from service.store.database import Connection

MAX_CHANGES: Final = 500
"""The most changes in one joint transaction. It bounds how long other writes wait, and the memory."""
MAX_WAIT_S: Final = 5.0
"""The longest time in a queue. After it the caller is answered 503."""

MISMATCH: Final = "this Idempotency-Key was used with another query string or body: take a new one"


class Member:
    """A write, and the future that its caller awaits."""

    __slots__ = ("answer", "arrived", "future", "locked_elsewhere", "scope", "size", "write")

    def __init__(
        self, write: Write, future: asyncio.Future[Reply | Progress], arrived: float
    ) -> None:
        self.write = write
        self.size = write.size
        self.arrived = arrived
        self.future = future
        self.answer: Reply | Progress | Refusal | None = None
        """Set before COMMIT, sent after it. None: this transaction could not write it."""
        self.locked_elsewhere = False
        """Whether another transaction has locked rows of this write."""
        self.scope = (
            None
            if write.idempotency is None
            else (write.caller.workspace_id, write.idempotency.scope)
        )

    def settle(self) -> None:
        """Give the caller the prepared answer; called after COMMIT."""
        if self.future.done():
            return  # the caller has disconnected
        if isinstance(self.answer, Refusal):
            self.future.set_exception(self.answer)
        elif self.answer is not None:
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
    while queue and room >= queue[0].size:
        member = queue.popleft()
        if member.future.done():
            continue
        if member.arrived < oldest:
            member.fail(Unavailable("the database does not keep up; nothing was written"))
        elif member.scope is not None and member.scope in scopes:
            put_off.append(member)
        else:
            scopes.add(member.scope)
            group.append(member)
            room -= member.size
    queue.extendleft(reversed(put_off))
    return group


class Context(Struct, frozen=True):
    """The parts of the process that a transaction needs besides the database."""

    register_unknown: bool
    """The entity policy is `any`: unknown entities are registered when they are linked."""
    counter: LinkCounter
    ids: IdSource


async def execute(
    connection: "Connection",
    members: Sequence[Member],
    context: Context,
    *,
    wait: bool,
    on_read: Callable[[], None] = lambda: None,
) -> Witness | None:
    """Lock, read, decide and save the members' writes; each `answer` is valid after COMMIT.

    Args:
        connection: in a transaction.
        members: one, if `wait`.
        context: the entity policy, the counts of links, and the source of ids.
        wait: wait for locks, and insert missing rows; otherwise a member whose rows are missing or locked
            by another transaction is left without an answer.
        on_read: called before deciding; tasks that it wakes up run while Postgres saves.

    Returns:
        A row that only this transaction wrote; None if it wrote nothing.

    Raises:
        Appeared: (wait) another transaction inserted a row between lock and read; retry.
    """
    members = await _without_replayed(connection, members, wait=wait)
    if not members:
        return None
    state = State(context.ids)
    writes = [member.write for member in members]
    if wait:
        await lock_all(connection, state, writes[0], register_unknown=context.register_unknown)
    else:
        locked = await lock_free(connection, state, writes)
        members = [member for member in members if _can_write(member, state, locked, context)]
    more = sum(member.size for member in members)
    near = [
        key
        for key, document in state.documents.items()
        if document.active is None and document.version + more > MAX_LINKS
    ]
    if near:
        await context.counter.count(connection, state, near, more)
    on_read()
    replies, witness = await _decide(connection, state, members)
    saved = await save(connection, state, replies)
    return witness or saved


async def _decide(
    connection: "Connection", state: State, members: Sequence[Member]
) -> tuple[list[StoredReply], Witness | None]:
    """Prepare each member's answer; return the replies to store, and the witness of slices saved already."""
    witness: Witness | None = None
    replies: list[StoredReply] = []
    for member in members:
        write = member.write
        try:
            reply = write.decide(state)
            if not isinstance(reply, Reply | Progress):
                reply, saved = await _in_slices(connection, state, reply)
                witness = witness or saved
        except Refusal as refusal:
            member.answer = refusal
            continue
        member.answer = reply
        if write.idempotency is not None and isinstance(reply, Reply):
            replies.append(StoredReply(write.caller.workspace_id, write.idempotency, reply))
    return replies, witness


async def _in_slices(
    connection: "Connection", state: State, slices: Slices
) -> tuple[Reply, Witness | None]:
    """Decide slice by slice, and save each slice."""
    witness = None
    while True:
        try:
            next(slices)
        except StopIteration as end:
            return end.value, witness
        saved = await save(connection, state)
        state.forget_written()
        witness = witness or saved
        if saved is None:
            await asyncio.sleep(0)  # no statement was awaited: let other tasks run


def _can_write(
    member: Member, state: State, locked_elsewhere: set[LinkKey], context: Context
) -> bool:
    """Whether all rows that the member needs exist, and are locked and read."""
    write = member.write
    member.locked_elsewhere = bool(locked_elsewhere) and not locked_elsewhere.isdisjoint(
        write.links(state)
    )
    return not (
        member.locked_elsewhere
        or (isinstance(write, DocumentWrite) and write.key not in state.rows)
        or (context.register_unknown and write.unknown_entities(state))
    )


async def _without_replayed(
    connection: "Connection", members: Sequence[Member], *, wait: bool
) -> Sequence[Member]:
    """Answer the members whose reply is stored, and return those that can be written.

    Members whose scope another transaction has locked are neither answered nor returned.
    """
    keyed = [(member, key) for member in members if (key := member.write.idempotency) is not None]
    if not keyed:
        return members
    scopes = [(member.write.caller.workspace_id, key) for member, key in keyed]
    left_out = set()
    found = await lock_scopes(connection, scopes, wait=wait)
    for (member, idempotency), stored in zip(keyed, found, strict=True):
        if stored is True:
            continue
        left_out.add(member)
        if stored is not False:
            fingerprint, reply = stored
            same = fingerprint == idempotency.fingerprint
            member.answer = reply if same else IdempotencyMismatch(MISMATCH)
    return [member for member in members if member not in left_out]
