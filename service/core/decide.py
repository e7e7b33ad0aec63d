"""Deciding: state and changes in, outcomes, rows and events out.

A transaction may carry the requests of many callers (group commit), so requests are folded one
after the other over one state; a refused one leaves the state as it was.
"""

from collections.abc import Iterable, Sequence
from datetime import datetime
from uuid import UUID

from msgspec import UNSET, Struct, field
from msgspec.structs import replace

from service.core import events, ids
from service.core.changes import (
    MAX_LINKS,
    Caller,
    Change,
    DocumentKey,
    DocumentState,
    EntityKey,
    Link,
    LinkRow,
    Outcome,
    SetRole,
    Triple,
    Unlink,
)
from service.core.errors import Conflict, NotFound, Refusal
from service.core.preconditions import Preconditions


class State(Struct):
    """What one transaction has locked and read; after deciding, also what it has to write."""

    moment: datetime
    """Taken after the locks: the time of everything that this transaction writes."""
    documents: dict[DocumentKey, DocumentState] = field(default_factory=dict)
    entities: set[EntityKey] = field(default_factory=set)
    """Those that can be linked to."""
    links: dict[Triple, LinkRow] = field(default_factory=dict)
    stored_links: set[Triple] = field(default_factory=set)
    """Those of `links` that have a row already."""
    written_links: set[Triple] = field(default_factory=set)
    written_documents: set[DocumentKey] = field(default_factory=set)
    outbox: list[events.OutboxRow] = field(default_factory=list)

    moment_us: int = 0
    time: str = ""

    def forget_written(self) -> None:
        """Drop what has been written, so that a long transaction holds no more than a part of it."""
        self.stored_links.update(self.written_links)
        self.written_links.clear()
        self.written_documents.clear()
        self.outbox.clear()

    def __post_init__(self) -> None:
        """Put the moment into the two forms that ids and events need, once."""
        self.moment_us = ids.microseconds(self.moment)
        self.time = events.timestamp(self.moment)


class Draft:
    """One request's changes on top of the state; `keep` makes them the state's.

    `deletion_id` is that of the document's deletion, if that is what unlinks.
    """

    def __init__(
        self,
        state: State,
        caller: Caller,
        cause: events.Cause,
        *,
        deletion_id: UUID | None = None,
    ) -> None:
        self.state = state
        self.caller = caller
        self.cause = cause
        self.deletion_id = deletion_id
        self.links: dict[Triple, LinkRow] = {}
        self.documents: dict[DocumentKey, DocumentState] = {}
        self.outbox: list[events.OutboxRow] = []

    def apply(self, change: Change) -> Outcome:
        """Carry out one change.

        Raises:
            NotFound: its document, entity or link does not exist.
        """
        match change:
            case Link(triple, role):
                return self.link(triple, role)
            case Unlink(triple, missing_ok, orphaned):
                if orphaned and not self._is_orphan(triple):
                    return Outcome("unchanged", self.find(triple))
                return self.unlink(triple, missing_ok=missing_ok)
            case SetRole(triple, role):
                return self.set_role(triple, role)

    def link(self, triple: Triple, role: str | None) -> Outcome:
        """Make the link, restore it, or find it there."""
        document = self.document(triple.document)
        if triple.entity not in self.state.entities:
            raise NotFound(missing_entity(triple))
        before = self.find(triple)
        if before is not None and before.deleted_at is None:
            return Outcome("existing", before)
        if document.active is not None and document.active >= MAX_LINKS:
            raise Conflict(too_many_links(triple.document_id, document.active))
        if before is None:
            link = LinkRow(triple, ids.uuid7(self.state.moment_us), role, self.state.moment)
            return Outcome("created", self._write("document.linked", link, None))
        link = LinkRow(triple, before.id, before.role if role is None else role, before.created_at)
        return Outcome("restored", self._write("document.restored", link, before))

    def unlink(self, triple: Triple, *, missing_ok: bool = False) -> Outcome:
        """Remove the link."""
        self.document(triple.document)
        before = self.find(triple)
        if before is None or before.deleted_at is not None:
            if missing_ok:
                return Outcome("unchanged", before)
            raise NotFound(
                f"document {triple.document_id!r} is not linked to "
                f"{triple.entity_type} {triple.entity_id!r}"
            )
        link = replace(
            before,
            deleted_at=self.state.moment,
            deleted_cause=self.cause,
            deletion_id=self.deletion_id,
        )
        return Outcome("unlinked", self._write("document.unlinked", link, before))

    def set_role(self, triple: Triple, role: str | None) -> Outcome:
        """Give the active link another role."""
        self.document(triple.document)
        before = self.find(triple)
        if before is None or before.deleted_at is not None:
            raise NotFound(f"document {triple.document_id!r} has no such active link")
        if before.role == role:
            return Outcome("unchanged", before)
        link = replace(before, role=role)
        return Outcome("updated", self._write("document.link_updated", link, before))

    def find(self, triple: Triple) -> LinkRow | None:
        """Return the link as this request would leave it."""
        return self.links.get(triple) or self.state.links.get(triple)

    def _is_orphan(self, triple: Triple) -> bool:
        """Whether the link is active though its entity is deleted; its document may be deleted too."""
        link = self.find(triple)
        return (
            triple.entity not in self.state.entities
            and link is not None
            and link.deleted_at is None
        )

    def document(self, key: DocumentKey) -> DocumentState:
        """Return the document as this request would leave it.

        Raises:
            NotFound: there is none, or it is deleted.
        """
        document = self.documents.get(key) or self.state.documents.get(key)
        if document is None or document.deleted:
            raise NotFound(f"document {key[1]!r} does not exist")
        return document

    def hand_over(self) -> None:
        """Make the links and events so far the state's, to be written before the rest is decided."""
        state = self.state
        state.links.update(self.links)
        state.written_links.update(self.links)
        state.outbox.extend(self.outbox)
        self.links.clear()
        self.outbox.clear()

    def keep(self) -> None:
        """Make the changes the state's, to be written."""
        state = self.state
        self.hand_over()
        for key, document in self.documents.items():
            # One revision a request, however many of its links it changed.
            state.documents[key] = replace(document, revision=document.revision + 1)
        state.written_documents.update(self.documents)

    def _write(
        self, event_type: events.EventType, link: LinkRow, before: LinkRow | None
    ) -> LinkRow:
        """Take the link's new state, count the document's version, and tell of it."""
        triple = link.triple
        document = self.document(triple.document)
        version = document.version + 1
        active = document.active
        if active is not None:
            active += (link.deleted_at is None) - (before is not None and before.deleted_at is None)
        self.documents[triple.document] = DocumentState(version, document.revision, active=active)
        self.links[triple] = link
        self.outbox.append(self._event(event_type, link, before, version))
        return link

    def _event(
        self, event_type: events.EventType, link: LinkRow, before: LinkRow | None, version: int
    ) -> events.OutboxRow:
        workspace_id, document_id, entity_type, entity_id = link.triple
        event_id = ids.uuid7_text(self.state.moment_us)
        is_new = before is None
        event = events.Event(
            specversion="1.0",
            id=event_id,
            source=f"/workspaces/{workspace_id}",
            type=event_type,
            subject=document_id,
            time=self.state.time,
            datacontenttype="application/json",
            dataschema=events.DATASCHEMA_OF[event_type],
            partitionkey=f"{workspace_id}/{document_id}",
            sequence=f"{version:020d}",
            data=events.EventData(
                workspace_id,
                document_id,
                version,
                events.EventLink(
                    str(link.id),
                    events.EventResource(entity_id, entity_type),
                    link.role,
                    self.state.time if is_new else events.timestamp(link.created_at),
                    events.optional_timestamp(link.deleted_at),
                ),
                None
                if before is None
                else events.Previous(before.role, events.optional_timestamp(before.deleted_at)),
                self.cause,
                self.caller.actor,
                self.caller.request_id,
            ),
            traceparent=self.caller.traceparent or UNSET,
        )
        return events.outbox_row(event_id, event)


def decide(
    draft: Draft,
    changes: Sequence[Change],
    *,
    atomic: bool = True,
    preconditions: Preconditions | None = None,
) -> list[Outcome | Refusal]:
    """Fold the changes in order; the preconditions are on the document of the first one.

    With `atomic`, the first refusal is raised and nothing is kept; otherwise it is the outcome of
    its change, and the others are carried out.

    Raises:
        Refusal: a change cannot be carried out; `index` says which, of a batch.
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
        preconditions.check(draft.state.documents[changes[0].triple.document])
    draft.keep()
    return outcomes


def too_many_links(document_id: str, active: int) -> str:
    """Say that the document has no room for one more link."""
    return (
        f"document {document_id!r} has {active} links, and {MAX_LINKS} is the most that a document "
        "can have: unlink some of them first"
    )


def missing_entity(triple: Triple) -> str:
    """Say which entity has to be registered, and how."""
    kind, entity_id = triple.entity_type, triple.entity_id
    return (
        f"{kind} {entity_id!r} does not exist: register it with PUT /v1/entities/{kind}/{entity_id}"
    )


def missing_entities(state: State, changes: Iterable[Change]) -> set[EntityKey]:
    """Return the entities that cannot be linked to, though their documents are there."""
    return {
        change.triple.entity
        for change in changes
        if isinstance(change, Link)
        and change.triple.entity not in state.entities
        and (document := state.documents.get(change.triple.document)) is not None
        and not document.deleted
    }
