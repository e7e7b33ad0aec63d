"""Decisions about a whole document: create, put, update, delete and restore."""

from collections import defaultdict
from collections.abc import Callable, Sequence
from functools import partial
from operator import attrgetter
from typing import Final, Literal
from uuid import UUID

from msgspec import UNSET, Struct, UnsetType, field
from msgspec.structs import replace

from service.core.errors import Conflict, NotFound
from service.core.ids import microseconds
from service.core.links import Draft, missing_entity, too_many_links
from service.core.values import (
    MAX_LINKS,
    AddLink,
    Cause,
    Change,
    DocumentKey,
    DocumentRow,
    DocumentState,
    EntityKey,
    LinkKey,
    LinkRow,
    OutcomeKind,
    SetRole,
    Unlink,
)
from service.core.writes import Needs, Slices, State, Write

SLICE: Final = 100
"""Changes of links that are decided in one go. They keep the event loop busy for about 5 ms."""

Operation = Literal["create", "put", "update", "delete", "restore"]

CAUSE_OF: Final[dict[Operation, Cause]] = {
    "delete": "document_deleted",
    "restore": "document_restored",
}
"""The cause in the events; that of the others is `update`."""


_fields = attrgetter("display_name", "category", "metadata", "deletion_id")
"""The columns of a document that a write can set, without the times that go with them."""


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
    """The document after the request, and the ids of the links that the request changed, by outcome.

    `created`: the document is new, or a put has brought it back from deletion. `changed`: the request
    has written something.
    """

    row: DocumentRow
    created: bool = False
    changed: bool = False
    links: defaultdict[OutcomeKind, list[UUID]] = field(default_factory=partial(defaultdict, list))


MakeDocumentReply = Callable[[DocumentOutcome, Sequence[LinkRow]], Slices]
"""Makes the reply from the outcome and the document's active links."""


class DocumentWrite(Write, frozen=True, kw_only=True):
    """A write to one document, its fields and its links.

    A document may have thousands of links. Their changes are decided and saved in slices, so that the
    event loop and each statement are busy for a short time, and only one slice's events are in memory.

    Attributes:
        respond: makes the reply; called before COMMIT, since the reply may have to be stored.
        preconditions: conditions on the document before the write.
    """

    operation: Operation
    key: DocumentKey
    respond: MakeDocumentReply
    fields: Fields = Fields()
    edits: LinkEdits = LinkEdits()

    @property
    def needs(self) -> Needs:
        """The document with its links; the links that a deletion removes are not known yet."""
        size = 1 + len(self.edits.wanted) + len(self.edits.remove)
        makes = self.operation in {"create", "put"}
        return Needs({self.key}, size, whole=self.key, makes_row=makes)

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
        before = admit(state, self, made=made)
        check(state, self, before, made=made)
        deletion_id = (
            state.ids.uuid7(microseconds(state.now)) if self.operation == "delete" else None
        )
        draft = Draft(
            state, self.caller, CAUSE_OF.get(self.operation, "update"), deletion_id=deletion_id
        )
        # A document that was just inserted has revision 1 already, and `keep` adds one.
        draft.documents[self.key] = DocumentState(before.version, before.revision - made)
        returns = self.operation == "put" and before.deleted_at is not None
        outcome = DocumentOutcome(row_after(self, before, draft), created=made or returns)
        changes = link_changes(state, self, before)
        for start in range(0, len(changes), SLICE):
            for change in changes[start : start + SLICE]:
                applied = draft.apply(change)
                if applied.link is not None and applied.kind not in {"existing", "unchanged"}:
                    outcome.links[applied.kind].append(applied.link.id)
            draft.hand_over()
            if start + SLICE < len(changes):
                yield
        fields_changed = _fields(outcome.row) != _fields(before)
        outcome.changed = made or bool(outcome.links) or fields_changed
        if outcome.changed:
            draft.keep()
            outcome.row = state.keep_row(self.key, outcome.row, fields_changed=fields_changed)
        links = [link for link in state.links_of(self.key) if link.deleted_at is None]
        return (yield from self.respond(outcome, links))


def admit(state: State, write: DocumentWrite, *, made: bool) -> DocumentRow:
    """Return the document's row before the write; `made`: this transaction has inserted it.

    Raises:
        NotFound: the document does not exist.
        Conflict: the document is to be created, and its id is taken.
    """
    before = state.row(write.key) if write.key in state.rows else None
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
