"""Deciding about a whole document: its fields, its links as a set, its deletion and return."""

from collections.abc import Callable, Sequence
from typing import Final, Literal
from uuid import UUID

from msgspec import UNSET, Struct, UnsetType, field
from msgspec.structs import replace

from service.core.changes import (
    MAX_LINKS,
    Change,
    DocumentKey,
    DocumentRow,
    DocumentState,
    EntityKey,
    Link,
    LinkKey,
    LinkRow,
    Outcome,
    SetRole,
    Unlink,
)
from service.core.errors import Conflict, NotFound
from service.core.events import Cause
from service.core.links import Draft, missing_entity, too_many_links
from service.core.preconditions import Preconditions
from service.core.writes import Slices, State, Write

SLICE: Final = 100
"""Links that are decided about at once: about five milliseconds of the event loop's time."""

Operation = Literal["create", "put", "update", "delete", "restore"]

CAUSE_OF: dict[Operation, Cause] = {
    "create": "update",
    "put": "update",
    "update": "update",
    "delete": "document_deleted",
    "restore": "document_restored",
}


class Fields(Struct, frozen=True):
    """What a request says of a document's own fields; unset ones stay. `metadata` is JSON."""

    display_name: str | UnsetType | None = UNSET
    category: str | UnsetType | None = UNSET
    metadata: str | UnsetType | None = UNSET


class Item(Struct, frozen=True):
    """One wanted link; a role of None asks for none in particular."""

    key: LinkKey
    role: str | None = None


class LinkEdits(Struct, frozen=True):
    """Changes to the document's links: some to add and remove, or the whole set."""

    add: Sequence[Item] = ()
    remove: Sequence[LinkKey] = ()
    set: Sequence[Item] | None = None

    @property
    def wanted(self) -> list[LinkKey]:
        """Those that have to be linked afterwards."""
        return [item.key for item in (self.add if self.set is None else self.set)]


class DocumentOutcome(Struct):
    """The document as it is after the request, and what the request changed of its links."""

    row: DocumentRow
    created: bool = False
    changed: bool = False
    linked: list[UUID] = field(default_factory=list)
    restored: list[UUID] = field(default_factory=list)
    unlinked: list[UUID] = field(default_factory=list)
    updated: list[UUID] = field(default_factory=list)

    @property
    def changes_links(self) -> bool:
        """Whether a link was written."""
        return bool(self.linked or self.restored or self.unlinked or self.updated)

    def add(self, outcome: Outcome) -> None:
        """Sort what became of one link by its kind."""
        into = {
            "created": self.linked,
            "restored": self.restored,
            "unlinked": self.unlinked,
            "updated": self.updated,
        }.get(outcome.kind)
        if into is not None and outcome.link is not None:
            into.append(outcome.link.id)


Respond = Callable[[DocumentOutcome, Sequence[LinkRow]], Slices]
"""From the outcome, and the document's active links, to the reply."""


class DocumentWrite(Write, frozen=True, kw_only=True):
    """A write to a whole document: its fields, its links as a set, its deletion or return.

    A document may have thousands of links. They are decided about in slices, so that neither the event
    loop nor a statement is busy for long, and no more than a slice's events stay in memory.

    Attributes:
        respond: makes the reply inside the transaction, from the outcome and the document's active links.
        preconditions: on the document as it was; None: any state will do.
    """

    operation: Operation
    key: DocumentKey
    respond: Respond
    fields: Fields = Fields()
    edits: LinkEdits = LinkEdits()
    preconditions: Preconditions | None = None

    @property
    def size(self) -> int:
        """The links that the caller names; a restore or a deletion may be about any number."""
        return 1 + len(self.edits.wanted) + len(self.edits.remove)

    @property
    def documents(self) -> set[DocumentKey]:
        """The document."""
        return {self.key}

    @property
    def makes_document(self) -> bool:
        """Whether the document is inserted unless it exists."""
        return self.operation in {"create", "put"}

    def links(self, state: State) -> Sequence[LinkKey]:
        """Return the links that are named, and those that a restore brings back."""
        restored = state.links_of(self.key) if self.operation == "restore" else ()
        named = (*self.edits.wanted, *self.edits.remove)
        return [*named, *(link.key for link in restored if link.deletion_id is not None)]

    def unknown_entities(self, state: State) -> set[EntityKey]:
        """Return the unknown entities that are to be linked; a restore leaves such links out."""
        return {key.entity for key in self.edits.wanted} - state.entities

    def decide(self, state: State) -> Slices:
        """Decide about the links in slices, then about the document's own fields."""
        made = self.key in state.made
        before = admit(self, state.row(self.key), made=made)
        check(state, self, before, made=made)
        deletion_id = state.ids.uuid7(state.now_us) if self.operation == "delete" else None
        draft = Draft(state, self.caller, CAUSE_OF[self.operation], deletion_id=deletion_id)
        # Being made is the first write, revision 1.
        draft.documents[self.key] = DocumentState(before.version, before.revision - made)
        returns = self.operation == "put" and before.deleted_at is not None
        outcome = DocumentOutcome(row_after(self, before, draft), created=made or returns)
        changes = link_changes(state, self, before)
        for start in range(0, len(changes), SLICE):
            for change in changes[start : start + SLICE]:
                outcome.add(draft.apply(change))
            draft.hand_over()
            if start + SLICE < len(changes):
                yield
        outcome.changed = made or outcome.changes_links or not outcome.row.same_fields(before)
        if outcome.changed:
            draft.keep()
            state.keep_row(self.key, outcome.row)
            outcome.row = state.row(self.key) or outcome.row
        links = [link for link in state.links_of(self.key) if link.deleted_at is None]
        return (yield from self.respond(outcome, links))


def admit(write: DocumentWrite, before: DocumentRow | None, *, made: bool) -> DocumentRow:
    """Return the row to work on (just inserted, if `made`).

    Raises:
        NotFound: there is no such document.
        Conflict: the id is taken.
    """
    deleted = before is not None and before.deleted_at is not None
    if before is None or (deleted and write.operation in {"update", "delete"}):
        raise NotFound(f"document {write.key.id!r} does not exist")
    if write.operation == "create" and not made:
        raise Conflict(
            f"document {write.key.id!r} exists{' (deleted)' if deleted else ''}: choose another id"
        )
    return before


def check(state: State, write: DocumentWrite, before: DocumentRow, *, made: bool) -> None:
    """Check the entities, the room for links, and last the preconditions.

    Raises:
        NotFound: an entity to be linked does not exist.
        Conflict: the document would have too many links.
        PreconditionFailed: the document is not in the state that the caller requires.
    """
    for key in write.edits.wanted:
        if key.entity not in state.entities:
            raise NotFound(missing_entity(key.entity))
    _check_room(state, write)
    if write.preconditions is not None:
        # To be restored, a document that is deleted has to exist: there its revision counts.
        deleted = before.deleted_at is not None and write.operation != "restore"
        document = None if made else DocumentState(before.version, before.revision, deleted)
        write.preconditions.check(document)


def _check_room(state: State, write: DocumentWrite) -> None:
    """See that the document can have the links that are added, once those to remove are gone.

    A set has no more links than its list, and a restore no more than there were.
    """
    document = state.documents.get(write.key)
    if document is None or document.active is None:
        return
    links, edits = state.links, write.edits
    active = {t for t in (*edits.wanted, *edits.remove) if t in links and not links[t].deleted_at}
    added = len({item.key for item in edits.add} - active)
    removed = len(active.intersection(edits.remove))
    if added and document.active - removed + added > MAX_LINKS:
        raise Conflict(too_many_links(write.key.id, document.active))


def link_changes(state: State, write: DocumentWrite, before: DocumentRow) -> list[Change]:
    """Return the changes of links, in order.

    The state has the document's active links, and those that its deletion removed.
    """
    edits, links = write.edits, state.links_of(write.key)
    if write.operation == "delete":
        return [Unlink(link.key) for link in links if link.deleted_at is None]
    if write.operation == "restore":
        return _restore(state, links, before)
    if edits.set is not None:
        return _replace(links, edits.set)
    removed = [Unlink(key, missing_ok=True) for key in edits.remove]
    return [*removed, *(Link(item.key, item.role) for item in edits.add)]


def row_after(write: DocumentWrite, before: DocumentRow, draft: Draft) -> DocumentRow:
    """Return the document's row as the write leaves it, but for the counters."""
    if write.operation == "delete":
        return replace(before, deleted_at=draft.state.now, deletion_id=draft.deletion_id)
    if write.operation == "restore":
        return replace(before, deleted_at=None, deletion_id=None)
    fields = write.fields
    return replace(
        before,
        display_name=before.display_name if fields.display_name is UNSET else fields.display_name,
        category=before.category if fields.category is UNSET else fields.category,
        metadata=before.metadata if fields.metadata is UNSET else fields.metadata,
        deleted_at=None,
        deletion_id=None,
    )


def _restore(state: State, links: Sequence[LinkRow], before: DocumentRow) -> list[Change]:
    """Bring back the links that the document's deletion removed, if their entity is there."""
    if before.deletion_id is None:
        return []
    return [
        Link(link.key)
        for link in links
        if link.deletion_id == before.deletion_id and link.key.entity in state.entities
    ]


def _replace(links: Sequence[LinkRow], items: Sequence[Item]) -> list[Change]:
    """Remove what the set does not name, add what is not there, and give the roles that it names."""
    active = {link.key: None for link in links if link.deleted_at is None}
    wanted = {item.key for item in items}
    changes: list[Change] = [Unlink(key) for key in active if key not in wanted]
    for item in items:
        if item.key not in active:
            changes.append(Link(item.key, item.role))
        elif item.role is not None:
            changes.append(SetRole(item.key, item.role))
    return changes
