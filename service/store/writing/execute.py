"""Everything between BEGIN and COMMIT: lock and read, decide, save; for one write or for many."""

import asyncio
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Final

from msgspec import Struct

from service.core.changes import LinkKey
from service.core.documents import DocumentWrite
from service.core.entities import EntityWrite
from service.core.errors import IdempotencyMismatch, Refusal
from service.core.ids import EPOCH, IdSource
from service.core.writes import Reply, Slices, State, Write
from service.store.writing import statements
from service.store.writing.counts import LinkCounter
from service.store.writing.statements import StoredReply
from service.store.writing.transaction import Appeared, Witness

if TYPE_CHECKING:
    from service.store.database import Connection

FEW_LINKS: Final = 100
"""A document that may have more links is written in a transaction of its own, for which nobody waits."""

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
    if wait:
        await _lock_all(connection, state, members, context)
    else:
        members = await _lock_what_is_free(connection, state, members, context)
    await context.counter.count(connection, state, sum(member.size for member in members))
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
    saved = await statements.save(connection, state, replies)
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
        saved = await statements.save(connection, state)
        witness = witness or saved
        if saved is None:
            await asyncio.sleep(0)  # others have a turn


async def _lock_all(
    connection: "Connection", state: State, members: Sequence[Member], context: Context
) -> None:
    """Lock and read all that the writes need, and insert the rows that they need.

    Raises:
        Appeared: a row was inserted between lock and read.
    """
    writes = [member.write for member in members]
    documents = [write for write in writes if isinstance(write, DocumentWrite)]
    for document in documents:
        if document.makes_document:
            await statements.make_document(connection, state, document.key)
    if documents:
        whole = sorted({document.key for document in documents})
        await statements.lock_documents(connection, state, whole, wait=True)
    for write in writes:
        if isinstance(write, EntityWrite):
            await statements.lock_entity(connection, state, write)
    keys = sorted({key for write in writes for key in write.links(state)})
    locked_elsewhere = await statements.lock_links(connection, state, keys, wait=True)
    if context.register_unknown:
        unknown = set().union(*(write.unknown_entities(state) for write in writes))
        if unknown:
            await statements.register(connection, sorted(unknown))
            locked_elsewhere = await statements.lock_links(connection, state, keys, wait=True)
    if locked_elsewhere:
        raise Appeared
    if state.moment is EPOCH:  # nothing was locked: the reply to a batch without sense is stored
        state.at(await statements.now(connection))


async def _lock_what_is_free(
    connection: "Connection", state: State, members: Sequence[Member], context: Context
) -> list[Member]:
    """Lock and read without waiting; return the members that have all that they need."""
    whole = {member.write.key for member in members if isinstance(member.write, DocumentWrite)}
    if whole:
        await statements.lock_documents(
            connection, state, sorted(whole), wait=False, most_links=FEW_LINKS
        )
    wanted = [(member, member.write.links(state)) for member in members]
    keys = [key for _, keys in wanted for key in keys]
    locked_elsewhere = await statements.lock_links(connection, state, keys, wait=False)
    if state.moment is EPOCH:
        state.at(await statements.now(connection))
    return [
        member
        for member, keys in wanted
        if not _needs_more(member, keys, state, locked_elsewhere)
        and not (context.register_unknown and member.write.unknown_entities(state))
    ]


def _needs_more(
    member: Member, keys: Sequence[LinkKey], state: State, locked_elsewhere: set[LinkKey]
) -> bool:
    """Whether rows are locked by another transaction, or a document has to be made or is large."""
    write = member.write
    member.locked_elsewhere = bool(locked_elsewhere) and not locked_elsewhere.isdisjoint(keys)
    return member.locked_elsewhere or (
        isinstance(write, DocumentWrite) and write.key not in state.rows
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
    found = await statements.lock_scopes(connection, scopes, wait=wait)
    for member, (_, idempotency), stored in zip(keyed, scopes, found, strict=True):
        if stored is True:
            continue
        left_out.add(member)
        if stored is not False:
            fingerprint, reply = stored
            same = fingerprint == idempotency.fingerprint
            member.answer = reply if same else IdempotencyMismatch(MISMATCH)
    return [member for member in members if member not in left_out]


def settle(members: Sequence[Member]) -> None:
    """Give each caller its answer, unless it has it already."""
    for member in members:
        member.settle()
