"""Decisions about links: from state and changes to outcomes, rows and events."""

from collections.abc import Callable, Mapping, Sequence
from uuid import UUID

from msgspec.structs import replace

from service.core.errors import Conflict, NotFound, Refusal
from service.core.events import EventMaker, EventType, OutboxRow
from service.core.ids import microseconds
from service.core.preconditions import Preconditions
from service.core.values import (
    MAX_LINKS,
    AddLink,
    Caller,
    Cause,
    Change,
    DocumentKey,
    DocumentState,
    EntityKey,
    LinkKey,
    LinkRow,
    Outcome,
    SetRole,
    Unlink,
)
from service.core.writes import Needs, Reply, State, Write


class Draft:
    """One write's changes on top of the state; `keep` moves them into the state.

    `deletion_id` is the id of the document's deletion; None: the write does not delete a document.
    """

    def __init__(
        self, state: State, caller: Caller, cause: Cause, *, deletion_id: UUID | None = None
    ) -> None:
        self.state = state
        self.cause = cause
        self.deletion_id = deletion_id
        self._now_us = microseconds(state.now)
        self._events = EventMaker(caller, cause, state.ids, state.now, self._now_us)
        self.links: dict[LinkKey, LinkRow] = {}
        self.documents: dict[DocumentKey, DocumentState] = {}
        self.outbox: list[OutboxRow] = []

    def apply(self, change: Change) -> Outcome:
        """Apply one change.

        Raises:
            NotFound: its document, entity or link does not exist.
            Conflict: its document has as many links as a document can have.
        """
        match change:
            case AddLink(key, role):
                return self.link(key, role)
            case Unlink(key, missing_ok, orphaned):
                if orphaned and not self._is_orphan(key):
                    return Outcome("unchanged", self.find(key))
                return self.unlink(key, missing_ok=missing_ok)
            case SetRole(key, role):
                return self.set_role(key, role)

    def link(self, key: LinkKey, role: str | None) -> Outcome:
        """Create the link, restore it, or leave it as it is if it is active."""
        document = self.document(key.document)
        if key.entity not in self.state.entities:
            raise NotFound(missing_entity(key.entity))
        before = self.find(key)
        if before is not None and before.deleted_at is None:
            return Outcome("existing", before)
        if document.active is not None and document.active >= MAX_LINKS:
            raise Conflict(too_many_links(key.document.id, document.active))
        if before is None:
            link = LinkRow(key, self.state.ids.uuid7(self._now_us), role, self.state.now)
            return Outcome("created", self._write("document.linked", link, None))
        link = LinkRow(key, before.id, before.role if role is None else role, before.created_at)
        return Outcome("restored", self._write("document.restored", link, before))

    def unlink(self, key: LinkKey, *, missing_ok: bool = False) -> Outcome:
        """Remove the link."""
        self.document(key.document)
        before = self.find(key)
        if before is None or before.deleted_at is not None:
            if missing_ok:
                return Outcome("unchanged", before)
            raise NotFound(
                f"document {key.document.id!r} is not linked to {key.entity.type} {key.entity.id!r}"
            )
        link = replace(
            before,
            deleted_at=self.state.now,
            deleted_cause=self.cause,
            deletion_id=self.deletion_id,
        )
        return Outcome("unlinked", self._write("document.unlinked", link, before))

    def set_role(self, key: LinkKey, role: str | None) -> Outcome:
        """Change the role of the active link."""
        self.document(key.document)
        before = self.find(key)
        if before is None or before.deleted_at is not None:
            raise NotFound(f"document {key.document.id!r} has no such active link")
        if before.role == role:
            return Outcome("unchanged", before)
        link = replace(before, role=role)
        return Outcome("updated", self._write("document.link_updated", link, before))

    def find(self, key: LinkKey) -> LinkRow | None:
        """Return the link with this write's changes; None: it has never been made."""
        return self.links.get(key) or self.state.links.get(key)

    def _is_orphan(self, key: LinkKey) -> bool:
        """Whether the link is active though its entity is deleted; its document may be deleted too."""
        link = self.find(key)
        return (
            key.entity not in self.state.entities and link is not None and link.deleted_at is None
        )

    def document(self, key: DocumentKey) -> DocumentState:
        """Return the document with this write's changes.

        Raises:
            NotFound: it does not exist, or is deleted.
        """
        document = self.documents.get(key) or self.state.documents.get(key)
        if document is None or document.deleted:
            raise NotFound(f"document {key.id!r} does not exist")
        return document

    def hand_over(self) -> None:
        """Move the links and events so far into the state; they may be saved before the rest is decided."""
        state = self.state
        state.links.update(self.links)
        state.unsaved.links.update(self.links)
        state.unsaved.outbox.extend(self.outbox)
        self.links.clear()
        self.outbox.clear()

    def keep(self) -> None:
        """Move the changes into the state; each changed document's revision grows by one."""
        state = self.state
        self.hand_over()
        for key, document in self.documents.items():
            state.documents[key] = replace(document, revision=document.revision + 1)
        state.unsaved.documents.update(self.documents)

    def _write(self, event_type: EventType, link: LinkRow, before: LinkRow | None) -> LinkRow:
        """Add the link's new row, its document's next version, and its event to the draft."""
        key = link.key
        document = self.document(key.document)
        version = document.version + 1
        active = document.active
        if active is not None:
            active += (link.deleted_at is None) - (before is not None and before.deleted_at is None)
        self.documents[key.document] = DocumentState(version, document.revision, active=active)
        self.links[key] = link
        self.outbox.append(self._events.make(event_type, link, before, version))
        return link


def decide(
    draft: Draft,
    changes: Sequence[Change],
    *,
    atomic: bool = True,
    preconditions: Preconditions | None = None,
) -> list[Outcome | Refusal]:
    """Apply the changes in order, then check the preconditions on the document of the first change.

    If `atomic`, the first refused change refuses all. If not, its refusal is its outcome, and the other
    changes are applied.

    Raises:
        Refusal: a change or a precondition is refused; in a batch, `index` is the change's position.
    """
    outcomes: list[Outcome | Refusal] = []
    for index, change in enumerate(changes):
        try:
            outcomes.append(draft.apply(change))
        except Refusal as refusal:
            if draft.cause == "batch":
                refusal.index = index
            if atomic:
                raise
            outcomes.append(refusal)
    if preconditions is not None:
        preconditions.check(draft.state.documents[changes[0].key.document])
    draft.keep()
    return outcomes


def too_many_links(document_id: str, active: int) -> str:
    """Return the message for a link that would be one too many."""
    return (
        f"document {document_id!r} has {active} links, and {MAX_LINKS} is the most that a document "
        "can have: unlink some of them first"
    )


def missing_entity(key: EntityKey) -> str:
    """Return the message for a link to an unknown entity: how to register it."""
    return f"{key.type} {key.id!r} does not exist: register it with PUT /v1/entities/{key.type}/{key.id}"


DocumentStates = Mapping[DocumentKey, DocumentState]
MakeLinksReply = Callable[[list[Outcome | Refusal], DocumentStates], Reply]
"""Makes the reply from the outcomes and the documents after the changes."""


class LinksWrite(Write, frozen=True, kw_only=True):
    """A list of changes of links.

    Attributes:
        respond: makes the reply; called before COMMIT, since the reply may have to be stored.
        atomic: whether the first refused change refuses the whole list.
        preconditions: conditions on the first change's document before the changes.
    """

    cause: Cause
    changes: Sequence[Change]
    respond: MakeLinksReply
    atomic: bool = True

    @property
    def needs(self) -> Needs:
        """The documents of the changes."""
        return Needs({change.key.document for change in self.changes}, len(self.changes))

    def links(self, _: State) -> Sequence[LinkKey]:
        """Return the links of the changes, in order."""
        return [change.key for change in self.changes]

    def unknown_entities(self, state: State) -> set[EntityKey]:
        """Return the unknown entities that the changes link to documents that exist."""
        return {
            change.key.entity
            for change in self.changes
            if isinstance(change, AddLink)
            and change.key.entity not in state.entities
            and (document := state.documents.get(change.key.document)) is not None
            and not document.deleted
        }

    @property
    def only_adds_links(self) -> bool:
        """Whether all changes add links, under no condition, and no reply has to be stored."""
        return (
            self.idempotency is None
            and self.preconditions is None
            and all(isinstance(change, AddLink) for change in self.changes)
        )

    def changes_nothing(self, state: State) -> bool:
        """Whether all links to add are active in the state, and their documents and entities too."""
        return self.only_adds_links and all(
            (link := state.links.get(change.key)) is not None
            and link.deleted_at is None
            and change.key.entity in state.entities
            and (document := state.documents.get(change.key.document)) is not None
            and not document.deleted
            for change in self.changes
        )

    def decide(self, state: State) -> Reply:
        """Apply the changes in order."""
        draft = Draft(state, self.caller, self.cause)
        outcomes = decide(draft, self.changes, atomic=self.atomic, preconditions=self.preconditions)
        return self.respond(outcomes, state.documents)
