"""Decisions about a whole document: create, put, update, delete and restore."""

from collections.abc import Callable, Sequence
from typing import Final, Literal
from uuid import UUID

from msgspec import UNSET, Struct, UnsetType, field
from msgspec.structs import replace

from service.core.errors import Conflict, NotFound
from service.core.events import Cause
from service.core.links import Draft, missing_entity, too_many_links
from service.core.preconditions import Preconditions
from service.core.values import (
    MAX_LINKS,
    AddLink,
    Change,
    DocumentKey,
    DocumentRow,
    DocumentState,
    EntityKey,
    LinkKey,
    LinkRow,
    Outcome,
    SetRole,
    Unlink,
)
from service.core.writes import Slices, State, Write

SLICE: Final = 100
"""Changes of links that are decided in one go. They keep the event loop busy for about 5 ms."""

Operation = Literal["create", "put", "update", "delete", "restore"]

CAUSE_OF: dict[Operation, Cause] = {
    "create": "update",
    "put": "update",
    "update": "update",
    "delete": "document_deleted",
    "restore": "document_restored",
}


class Fields(Struct, frozen=True):
    """A request's values for a document's own fields. UNSET: unchanged. `metadata` is JSON text."""

    display_name: str | UnsetType | None = UNSET
    category: str | UnsetType | None = UNSET
    metadata: str | UnsetType | None = UNSET


class WantedLink(Struct, frozen=True):
    """A link that a request asks for. With a role of None, an existing or restored link keeps its role."""

    key: LinkKey
    role: str | None = None


class LinkEdits(Struct, frozen=True):
    """Changes of a document's links: links to add and to remove, or, in `set`, the whole set."""

    add: Sequence[WantedLink] = ()
    remove: Sequence[LinkKey] = ()
    set: Sequence[WantedLink] | None = None

    @property
    def wanted(self) -> list[LinkKey]:
        """The links that are active afterwards."""
        return [link.key for link in (self.add if self.set is None else self.set)]


class DocumentOutcome(Struct):
    """The document after the request, and the ids of the links that the request changed.

    `created`: the document is new, or a put has brought it back from deletion. `changed`: the request
    has written something.
    """

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
        """Add the id of a changed link to the list of its kind."""
        into = {
            "created": self.linked,
            "restored": self.restored,
            "unlinked": self.unlinked,
            "updated": self.updated,
        }.get(outcome.kind)
        if into is not None and outcome.link is not None:
            into.append(outcome.link.id)


Respond = Callable[[DocumentOutcome, Sequence[LinkRow]], Slices]
"""Makes the reply from the outcome and the document's active links."""


class DocumentWrite(Write, frozen=True, kw_only=True):
    """A write to one document, its fields and its links.

    A document may have thousands of links. Their changes are decided and saved in slices, so that the
    event loop and each statement are busy for a short time, and only one slice's events are in memory.

    Attributes:
        respond: makes the reply; called before COMMIT, since the reply may have to be stored.
        preconditions: conditions on the document before the write; None: there are none.
    """

    operation: Operation
    key: DocumentKey
    respond: Respond
    fields: Fields = Fields()
    edits: LinkEdits = LinkEdits()
    preconditions: Preconditions | None = None

    @property
    def size(self) -> int:
        """One, and the links that the caller names; the links that a deletion removes are not known yet."""
        return 1 + len(self.edits.wanted) + len(self.edits.remove)

    @property
    def documents(self) -> set[DocumentKey]:
        """The document."""
        return {self.key}

    @property
    def makes_document(self) -> bool:
        """Whether the document is inserted if it does not exist."""
        return self.operation in {"create", "put"}

    def links(self, state: State) -> Sequence[LinkKey]:
        """Return the links that the request names, and those that a restore may bring back."""
        restored = state.links_of(self.key) if self.operation == "restore" else ()
        named = (*self.edits.wanted, *self.edits.remove)
        return [*named, *(link.key for link in restored if link.deletion_id is not None)]

    def unknown_entities(self, state: State) -> set[EntityKey]:
        """Return the unknown entities that the request links; a restore registers none."""
        return {key.entity for key in self.edits.wanted} - state.entities

    def decide(self, state: State) -> Slices:
        """Decide the changes of links in slices, then the document's own fields."""
        made = self.key in state.made
        before = admit(self, state.row(self.key), made=made)
        check(state, self, before, made=made)
        deletion_id = state.ids.uuid7(state.now_us) if self.operation == "delete" else None
        draft = Draft(state, self.caller, CAUSE_OF[self.operation], deletion_id=deletion_id)
        # A document that was just inserted has revision 1 already, and `keep` adds one.
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
    """Return the document's row before the write; `made`: this transaction has inserted it.

    Raises:
        NotFound: the document does not exist.
        Conflict: the document is to be created, and its id is taken.
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
    """Check that the entities exist, then the number of links, then the preconditions.

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
        # For a restore, a deleted document exists: If-Match is compared with its revision.
        deleted = before.deleted_at is not None and write.operation != "restore"
        document = None if made else DocumentState(before.version, before.revision, deleted)
        write.preconditions.check(document)


def _check_room(state: State, write: DocumentWrite) -> None:
    """Refuse an update after which the document would have more than MAX_LINKS active links.

    A `set` needs no check, since its list is bounded, nor does a restore, since the links were there.
    """
    document = state.documents.get(write.key)
    if document is None or document.active is None:
        return
    links, edits = state.links, write.edits
    named = (*edits.wanted, *edits.remove)
    active = {key for key in named if key in links and not links[key].deleted_at}
    added = len({link.key for link in edits.add} - active)
    removed = len(active.intersection(edits.remove))
    if added and document.active - removed + added > MAX_LINKS:
        raise Conflict(too_many_links(write.key.id, document.active))


def link_changes(state: State, write: DocumentWrite, before: DocumentRow) -> list[Change]:
    """Return the changes of links, in order.

    The state holds the document's active links, and the links that its deletion removed.
    """
    edits, links = write.edits, state.links_of(write.key)
    if write.operation == "delete":
        return [Unlink(link.key) for link in links if link.deleted_at is None]
    if write.operation == "restore":
        return _restore(state, links, before)
    if edits.set is not None:
        return _replace(links, edits.set)
    removed = [Unlink(key, missing_ok=True) for key in edits.remove]
    return [*removed, *(AddLink(link.key, link.role) for link in edits.add)]


def row_after(write: DocumentWrite, before: DocumentRow, draft: Draft) -> DocumentRow:
    """Return the document's row after the write, except for version, revision and updated_at."""
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
    """Return an AddLink for each link that the document's deletion removed, if its entity exists."""
    if before.deletion_id is None:
        return []
    return [
        AddLink(link.key)
        for link in links
        if link.deletion_id == before.deletion_id and link.key.entity in state.entities
    ]


def _replace(links: Sequence[LinkRow], wanted: Sequence[WantedLink]) -> list[Change]:
    """Return the changes after which exactly the wanted links are active, with the roles they name."""
    active = {link.key: None for link in links if link.deleted_at is None}
    kept = {link.key for link in wanted}
    changes: list[Change] = [Unlink(key) for key in active if key not in kept]
    for link in wanted:
        if link.key not in active:
            changes.append(AddLink(link.key, link.role))
        elif link.role is not None:
            changes.append(SetRole(link.key, link.role))
    return changes
