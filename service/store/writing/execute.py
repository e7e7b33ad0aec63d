"""Everything between BEGIN and COMMIT: lock and read, decide, save; for one write or for many."""

import asyncio
import time
from collections import deque
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Final

from msgspec import Struct

from service.core.changes import MAX_LINKS, LinkKey
from service.core.documents import DocumentWrite
from service.core.errors import IdempotencyMismatch, Refusal, Unavailable
from service.core.ids import IdSource
from service.core.writes import Reply, Slices, State, Write
from service.store.writing.counts import LinkCounter
from service.store.writing.locking import lock_all, lock_free
from service.store.writing.replies import lock_scopes
from service.store.writing.saving import StoredReply, save
from service.store.writing.transaction import Witness

if TYPE_CHECKING:
    from service.store.database import Connection

MAX_CHANGES: Final = 500
"""Changes in one transaction of several requests. It bounds how long the others wait, and the memory."""
MAX_WAIT_S: Final = 5.0
"""The longest time in a queue, in seconds. After that the caller is answered 503."""

MISMATCH: Final = "this Idempotency-Key was used with another query string or body: take a new one"


class Member:
    """A write on its way, and the future on which its caller waits."""

    __slots__ = ("answer", "arrived", "future", "locked_elsewhere", "scope", "size", "write")

    def __init__(self, write: Write, future: asyncio.Future[Reply], arrived: float) -> None:
        self.write = write
        self.size = write.size
        self.arrived = arrived
        self.future = future
        self.answer: Reply | Refusal | None = None
        """Set before COMMIT, sent after it. None: this transaction could not write it."""
        self.locked_elsewhere = False
        """Whether that was because another transaction has locked its rows."""
        self.scope = (
            None
            if write.idempotency is None
            else (write.caller.workspace_id, write.idempotency.scope)
        )

    def settle(self) -> None:
        """Give the caller the prepared answer, now that it is durable."""
        if self.future.done():
            return  # the caller has gone
        if isinstance(self.answer, Reply):
            self.future.set_result(self.answer)
        elif self.answer is not None:
            self.future.set_exception(self.answer)

    def fail(self, error: BaseException) -> None:
        """Give the caller an error instead."""
        if not self.future.done():
            self.future.set_exception(error)


def take_group(queue: deque[Member], room: int = MAX_CHANGES) -> list[Member]:
    """Remove from the queue the requests that share the next transaction, `room` changes at most.

    A request whose caller has gone is dropped, and one that waited too long is refused. Of several
    requests with one Idempotency-Key only the first is taken: the next one has to read its reply.
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
    """What deciding depends on besides the database: the entity policy, counts, and the source of ids."""

    register_unknown: bool
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
        context: what deciding depends on.
        wait: wait for locks, and insert rows that are needed; otherwise members whose rows another
            transaction has locked are left without an answer.
        on_read: called before deciding; what it wakes up runs while Postgres saves.

    Returns:
        A row that only this transaction wrote; None if it wrote nothing.

    Raises:
        Appeared: (wait) a row was inserted between lock and read; do it again.
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
    if any(document.version + more > MAX_LINKS for document in state.documents.values()):
        await context.counter.count(connection, state, more)
    on_read()
    witness: Witness | None = None
    replies: list[StoredReply] = []
    for member in members:
        write = member.write
        try:
            reply = write.decide(state)
            if not isinstance(reply, Reply):
                reply, saved = await _in_slices(connection, state, reply)
                witness = witness or saved
        except Refusal as refusal:
            member.answer = refusal
            continue
        member.answer = reply
        if write.idempotency is not None and reply.status:
            replies.append(StoredReply(write.caller.workspace_id, write.idempotency, reply))
    saved = await save(connection, state, replies)
    return witness or saved


async def _in_slices(
    connection: "Connection", state: State, slices: Slices
) -> tuple[Reply, Witness | None]:
    """Decide a slice at a time, and save what is decided in between."""
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
            await asyncio.sleep(0)  # others have a turn


def _can_write(
    member: Member, state: State, locked_elsewhere: set[LinkKey], context: Context
) -> bool:
    """Whether everything that the member needs is locked and read, and no row has to be inserted."""
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
    """Answer those whose reply is stored already; leave out those that have to wait for one."""
    keyed = [member for member in members if member.write.idempotency is not None]
    if not keyed:
        return members
    scopes = [
        (member.write.caller.workspace_id, member.write.idempotency)
        for member in keyed
        if member.write.idempotency is not None
    ]
    left_out = set()
    found = await lock_scopes(connection, scopes, wait=wait)
    for member, (_, idempotency), stored in zip(keyed, scopes, found, strict=True):
        if stored is True:
            continue
        left_out.add(member)
        if stored is not False:
            fingerprint, reply = stored
            same = fingerprint == idempotency.fingerprint
            member.answer = reply if same else IdempotencyMismatch(MISMATCH)
    return [member for member in members if member not in left_out]
