"""What happens inside a transaction of the write path, for one request or for many."""

import asyncio
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from service.core.changes import DocumentKey, Triple
from service.core.decide import Draft, State, decide, missing_entities
from service.core.errors import IdempotencyMismatch, Refusal
from service.core.requests import Idempotency, Reply, Request
from service.store.writing.counts import LinkCounter
from service.store.writing.registration import register_entities
from service.store.writing.statements import StoredReply, lock_and_read, lock_scopes, write_changes
from service.store.writing.transaction import Appeared, Witness

if TYPE_CHECKING:
    from service.store.database import Connection


class Member:
    """A request on its way, and the future on which its caller waits."""

    __slots__ = ("answer", "arrived", "future", "locked_elsewhere", "request", "scope")

    def __init__(self, request: Request, future: asyncio.Future[Reply], arrived: float) -> None:
        self.request = request
        self.arrived = arrived
        self.future = future
        self.answer: Reply | Refusal | None = None
        """Set before COMMIT, given after it. None: this transaction could not write the request."""
        self.locked_elsewhere = False
        """Whether that was because of a lock that another transaction has."""
        self.scope = scope_of(request.caller.workspace_id, request.idempotency)

    @property
    def documents(self) -> set[DocumentKey]:
        """Those that the request is about."""
        return {change.triple.document for change in self.request.changes}

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


def settle(members: Sequence[Member]) -> None:
    """Give each caller its answer, unless it has it already."""
    for member in members:
        member.settle()


def scope_of(workspace_id: str, idempotency: Idempotency | None) -> tuple[str, bytes] | None:
    """Return what two calls with the same Idempotency-Key have in common."""
    return None if idempotency is None else (workspace_id, idempotency.scope)


async def execute(  # noqa: PLR0913 - how a group and a lone request differ, each by its name
    connection: "Connection",
    members: Sequence[Member],
    *,
    counter: LinkCounter,
    patient: bool,
    register_unknown: bool,
    on_read: Callable[[], None] = lambda: None,
) -> tuple[bool, Witness | None]:
    """Lock, read, decide and write the members' requests; each `answer` is valid after COMMIT.

    Returns whether there are events, and the transaction's witness. `on_read` is called before
    deciding: what it lets run, runs while Postgres writes.

    Raises:
        Appeared: (patient) a row was made between lock and read; do it again.
    """
    members = await _without_replayed(connection, members, patient=patient)
    if not members:
        return False, None
    state, unheld = await _read(
        connection, members, patient=patient, register_unknown=register_unknown
    )
    if patient and unheld:
        raise Appeared
    await counter.count(connection, state, sum(len(m.request.changes) for m in members))
    on_read()
    replies = []
    for member in members:
        request = member.request
        if not patient and _needs_more(member, state, unheld, register_unknown=register_unknown):
            continue
        try:
            member.answer = reply = _decide(request, state)
        except Refusal as refusal:
            member.answer = refusal
            continue
        if request.idempotency is not None:
            replies.append(StoredReply(request.caller.workspace_id, request.idempotency, reply))
    return bool(state.outbox), await write_changes(connection, state, replies)


async def replay(
    connection: "Connection", scopes: Sequence[tuple[str, Idempotency]], *, patient: bool
) -> list[Reply | Refusal | bool]:
    """Lock the scopes and look for replies stored under them.

    For each: the reply, a refusal if it was to another request, True if there is none, and False if
    somebody else has the lock.
    """
    answers: list[Reply | Refusal | bool] = []
    found = await lock_scopes(connection, scopes, patient=patient)
    for (_, idempotency), stored in zip(scopes, found, strict=True):
        if isinstance(stored, bool):
            answers.append(stored)
        elif stored[0] == idempotency.fingerprint:
            answers.append(stored[1])
        else:
            detail = (
                "this Idempotency-Key was used with another query string or body: take a new one"
            )
            answers.append(IdempotencyMismatch(detail))
    return answers


async def replay_one(
    connection: "Connection", workspace_id: str, idempotency: Idempotency | None
) -> Reply | None:
    """Wait for the scope's lock; return the reply that is stored under it, if any.

    Raises:
        IdempotencyMismatch: it was to another request.
    """
    if idempotency is None:
        return None
    (found,) = await replay(connection, [(workspace_id, idempotency)], patient=True)
    if isinstance(found, Refusal):
        raise found
    return found if isinstance(found, Reply) else None


async def _without_replayed(
    connection: "Connection", members: Sequence[Member], *, patient: bool
) -> list[Member]:
    """Answer those whose reply is stored already; leave out those that have to wait for one."""
    keyed = [member for member in members if member.request.idempotency is not None]
    if not keyed:
        return list(members)
    scopes = [
        (member.request.caller.workspace_id, member.request.idempotency)
        for member in keyed
        if member.request.idempotency is not None
    ]
    out = set()
    for member, found in zip(keyed, await replay(connection, scopes, patient=patient), strict=True):
        if not isinstance(found, bool):
            member.answer = found
        if found is not True:
            out.add(member)
    return [member for member in members if member not in out]


async def _read(
    connection: "Connection", members: Sequence[Member], *, patient: bool, register_unknown: bool
) -> tuple[State, set[Triple]]:
    """Lock and read what the requests are about; where it may wait, register unknown entities too."""
    triples = [change.triple for member in members for change in member.request.changes]
    if patient:
        triples.sort()
    state, unheld = await lock_and_read(connection, triples, patient=patient)
    if patient and register_unknown:
        missing = set().union(*(missing_entities(state, m.request.changes) for m in members))
        if missing:
            await register_entities(connection, sorted(missing))
            return await lock_and_read(connection, triples, patient=True)
    return state, unheld


def _needs_more(
    member: Member, state: State, unheld: set[Triple], *, register_unknown: bool
) -> bool:
    """Whether the joint transaction cannot serve the request: locks held elsewhere, rows to be made."""
    request = member.request
    member.locked_elsewhere = bool(unheld) and any(
        change.triple in unheld for change in request.changes
    )
    if member.locked_elsewhere:
        return True
    return register_unknown and bool(missing_entities(state, request.changes))


def _decide(request: Request, state: State) -> Reply:
    draft = Draft(state, request.caller, request.cause)
    outcomes = decide(
        draft, request.changes, atomic=request.atomic, preconditions=request.preconditions
    )
    return request.respond(outcomes, state.documents)
