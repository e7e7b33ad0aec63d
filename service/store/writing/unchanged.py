"""Writes that change nothing: a read answers them, while another transaction has their document locked.

A caller that repeats a call, or sends a whole feed again, adds links that are active already. Such a write
needs no lock. One statement reads link, document and entity in one snapshot. If all three are active, the
reply is made of what was read: the link was active at that moment, which is after the call has arrived. All
other writes go on to wait for the lock.
"""

import asyncio
import time
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Final, cast

from service.core.ids import IdSource
from service.core.values import DocumentKey
from service.core.writes import State
from service.store.database import Database
from service.store.writing.execute import MAX_CHANGES, MAX_WAIT_S, Member, take_group
from service.store.writing.rows import read_active

if TYPE_CHECKING:
    from service.core.links import LinksWrite

PAUSE_S: Final = 0.1
"""The time without reads after one that answered no write. New links would only wait for it."""
READ_TIMEOUT_S: Final = 0.5
"""The longest time of a read, with the wait for a connection. After it the writes wait for the lock."""


class UnchangedReader:
    """Answers the writes that change nothing, several with one read, and passes on the others."""

    def __init__(
        self,
        database: Database,
        answered: Callable[[DocumentKey], None],
        pass_on: Callable[[Member], None],
    ) -> None:
        """Take what to call with the document of a write that was answered, and with any other write."""
        self._database = database
        self._answered = answered
        self._pass_on = pass_on
        self._ids = IdSource()
        self.waiting: deque[Member] = deque()
        """The writes that the next read may answer."""
        self._task: asyncio.Task[None] | None = None
        self._resume_at = 0.0

    def add(self, member: Member) -> None:
        """Queue the write for the next read, or pass it on if a read is not likely to answer it."""
        if not member.write.only_adds_links or time.monotonic() < self._resume_at:
            self._pass_on(member)
            return
        self.waiting.append(member)
        if self._task is None:
            self._task = asyncio.create_task(self._run(), name="read-unchanged")

    async def stop(self) -> None:
        """Wait until all writes are answered or passed on."""
        if self._task is not None:
            await asyncio.wait({self._task}, timeout=MAX_WAIT_S)

    async def _run(self) -> None:
        members: list[Member] = []
        try:
            while self.waiting:
                members = take_group(self.waiting, MAX_CHANGES)
                left = await self._answer(members)
                members = []
                self._pass_on_all(left)
        finally:
            self._task = None
            self._pass_on_all([*members, *self.waiting])
            self.waiting.clear()

    def _pass_on_all(self, members: Iterable[Member]) -> None:
        for member in members:
            self._pass_on(member)

    async def _answer(self, members: Sequence[Member]) -> Sequence[Member]:
        """Answer the members that change nothing, and return the others: all, if the read fails."""
        state = State(self._ids)
        try:
            reading = self._database.reading(ahead=True)  # one read for many calls
            async with asyncio.timeout(READ_TIMEOUT_S), reading as connection:
                keys = {key for member in members for key in member.write.links(state)}
                await read_active(connection, state, list(keys))
            left = [member for member in members if not self._settle(member, state)]
        except Exception:  # noqa: BLE001 - a transaction meets the error again, and reports it
            left = [member for member in members if not member.future.done()]
        if len(left) == len(members):
            self._resume_at = time.monotonic() + PAUSE_S
        return left

    def _settle(self, member: Member, state: State) -> bool:
        """Answer the write if it changes nothing; return whether it is answered."""
        if not member.write.changes_nothing(state):
            return False
        member.answer = cast("LinksWrite", member.write).decide(state)
        member.settle()
        for document in member.needs.documents:
            self._answered(document)
        return True
