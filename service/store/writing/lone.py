"""A lone new link: one statement that locks, reads and writes, and is a transaction of its own.

A joint transaction takes three round trips, which its writes share. A write without company would wait for
all three. So the commonest write, a link, has the function add_link, which writes in the one case in which
nothing is to be decided: document and entity exist and are not locked, and there is no link yet. In any
other case the function only reads, and the write is decided as always. If it changes something, it goes on
in a joint transaction.

The event is made before the statement is sent: the write is decided with a placeholder for the time and the
version, which only the locks tell, and the function puts the true ones in its place. The reply is made after
the statement: the write is decided again, with the same random words for ids.
"""

import time
from datetime import datetime
from typing import TYPE_CHECKING, Final, Literal, NamedTuple, cast
from uuid import UUID

from msgspec import Struct

from service.core.events import ID_START, placeholder
from service.core.ids import IdSource
from service.core.links import LinksWrite
from service.core.values import MAX_LINKS, DocumentState, LinkKey
from service.core.writes import Reply, State, Write
from service.store.database import Session
from service.store.writing.execute import Executor, Member
from service.store.writing.rows import take
from service.store.writing.transaction import Transactions
from service.store.writing.witness import Found, LinkWitness

if TYPE_CHECKING:
    from service.store.database import Connection

ADD_LINK: Final = """
SELECT locked_at, is_locked, version, revision, document_deleted_at, entity_known,
    link_id, role, created_at, deleted_at, is_written
FROM add_link($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11)
"""

LATEST_S: Final = 0.5
"""The statement writes nothing if it takes its locks so much later than it was sent. If its answer is lost,
the look-up waits until this time has passed, since the statement might still arrive. Usually a statement
takes its locks within 0.2 ms."""
WORDS: Final = 2
"""The random words of a new link: one for its id, one for its event's."""
PLACEHOLDER: Final = placeholder()


class Answer(NamedTuple):
    """What add_link returns; or the outcome of a statement whose answer was lost.

    `locked_at` is None if the session has settings with which the function does not write. `revision` is None
    if the answer was lost and another transaction has changed the document since.
    """

    locked_at: datetime | None
    is_locked: bool
    version: int | None
    revision: int | None
    document_deleted_at: datetime | None
    entity_known: bool
    link_id: UUID | None
    role: str | None
    created_at: datetime | None
    deleted_at: datetime | None
    is_written: bool


class LoneLink(Struct, frozen=True):
    """A write that was decided for the case that its link is new: the statement, and its witness."""

    key: LinkKey
    words: list[int]
    arguments: tuple[object, ...]
    witness: LinkWitness

    async def send(self, connection: "Connection") -> Answer:
        """Send the statement."""
        (row,) = await connection.fetch(ADD_LINK, *self.arguments)
        return Answer(*row)

    async def look_up(
        self, connection: "Connection", *, same_server: bool
    ) -> Answer | Literal[False] | None:
        """Return the lost answer if the link was written; otherwise as LinkWitness."""
        found = await self.witness.look_up(connection, same_server=same_server)
        if not isinstance(found, Found):
            return found
        revision = None if found.revision is None else found.revision - 1
        return Answer(
            locked_at=found.written_at,
            is_locked=True,
            version=0,  # neither sent to the caller nor written again
            revision=revision,
            document_deleted_at=None,
            entity_known=True,
            link_id=None,
            role=None,
            created_at=None,
            deleted_at=None,
            is_written=True,
        )

    def state(self, answer: Answer) -> State:
        """Return the state that the statement has locked and read, as it was before the link."""
        state = State(IdSource(words=self.words), cast("datetime", answer.locked_at))
        take(state, self.key, answer._replace(revision=answer.revision or 0)[:-1])
        return state


def is_plain(write: Write) -> bool:
    """Whether the write is for one link, under no conditions, so that one statement may write it."""
    return isinstance(write, LinksWrite) and len(write.changes) == 1 and write.only_adds_links


def prepare(write: LinksWrite, ids: IdSource, latest: datetime) -> LoneLink:
    """Decide a plain write for the case that its link is new; `latest` is an argument of add_link."""
    (change,) = write.changes
    key, words = change.key, ids.draw(WORDS)
    documents = {key.document: DocumentState(PLACEHOLDER.version - 1, 0)}
    state = State(IdSource(words=words), PLACEHOLDER.now, documents, entities={key.entity})
    write.decide(state)
    (event,) = state.unsaved.outbox
    link = state.links[key]
    link_end, event_end = str(link.id)[ID_START:], event.event_id[ID_START:]
    event_arguments = (link_end, event_end, PLACEHOLDER.template(event), event.traceparent)
    conditions = (MAX_LINKS - 1, latest)
    arguments = (*key.document, *key.entity[1:], link.role, *conditions, *event_arguments)
    return LoneLink(key, words, arguments, LinkWitness(key, link_end, latest))


class LoneWriter:
    """Writes links by one statement each, on the connection of the joint transactions."""

    def __init__(self, transactions: Transactions, executor: Executor) -> None:
        self._transactions = transactions
        self._executor = executor
        self._unfit: Session | None = None
        """A session with settings with which the function does not write."""

    def fits(self, session: Session) -> bool:
        """Whether the session has begun no transaction, and has settings with which the function writes."""
        return not session.is_in_transaction() and session is not self._unfit

    async def write(self, session: Session, member: Member) -> bool:
        """Write the link, and return whether the member's answer is valid; False: nothing was written.

        Raises:
            NotCommitted, Unavailable: as Transactions.run.
        """
        for _ in range(2):  # again if the server's clock was moved, or one of the processes hung
            latest = session.clock.later(LATEST_S)
            link = prepare(cast("LinksWrite", member.write), self._executor.ids, latest)
            run = self._transactions.run_statement
            answer: Answer = await run(session, link.send, link, [member])
            if answer.locked_at is None:
                self._unfit = session
                return False
            session.clock.set(answer.locked_at)
            if answer.is_written:
                session.checked_at = time.monotonic()
                self._transactions.note_written(has_events=True)
            if answer.is_written or answer.locked_at <= latest:
                return self._answered(member, link.state(answer), answer)
        return False

    def _answered(self, member: Member, state: State, answer: Answer) -> bool:
        is_locked, is_written = answer.is_locked, answer.is_written
        valid = self._executor.answer_lone(
            member, state, is_locked=is_locked, is_written=is_written
        )
        if is_written and answer.revision is None:
            member.answer = cast("Reply", member.answer)._replace(revision=None)
        return valid
