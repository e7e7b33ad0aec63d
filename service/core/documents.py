"""Deciding about a whole document: its fields, its links as a set, its deletion and return."""

from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Sequence
from datetime import datetime
from typing import Literal
from uuid import UUID

from msgspec import UNSET, Struct, UnsetType, field
from msgspec.structs import replace

from service.core.changes import (
    MAX_LINKS,
    Caller,
    Change,
    DocumentKey,
    DocumentState,
    Link,
    LinkRow,
    Outcome,
    SetRole,
    Triple,
    Unlink,
)
from service.core.decide import Draft, State, missing_entity, too_many_links
from service.core.errors import Conflict, NotFound
from service.core.events import Cause
from service.core.preconditions import Preconditions
from service.core.requests import Idempotency, Reply

Operation = Literal["create", "put", "update", "delete", "restore"]

CAUSE_OF: dict[Operation, Cause] = {
    "create": "update",
    "put": "update",
    "update": "update",
    "delete": "document_deleted",
    "restore": "document_restored",
}


class DocumentRow(Struct, frozen=True):
    """A document as stored; `metadata` is its JSON in the form that Postgres gives it (jsonb)."""

    id: str
    version: int
    revision: int
    display_name: str | None
    category: str | None
    metadata: str | None
    created_at: datetime
    updated_at: datetime
    deleted_at: datetime | None = None
    deletion_id: UUID | None = None


class Fields(Struct, frozen=True):
    """What a request says of a document's own fields; unset ones stay. `metadata` is JSON."""

    display_name: str | UnsetType | None = UNSET
    category: str | UnsetType | None = UNSET
    metadata: str | UnsetType | None = UNSET


class Item(Struct, frozen=True):
    """One wanted link; a role of None asks for none in particular."""

    triple: Triple
    role: str | None = None


class LinkEdits(Struct, frozen=True):
    """Changes to the document's links: some to add and remove, or the whole set."""

    add: Sequence[Item] = ()
    remove: Sequence[Triple] = ()
    set: Sequence[Item] | None = None

    @property
    def wanted(self) -> list[Triple]:
        """Those that have to be linked afterwards."""
        return [item.triple for item in (self.add if self.set is None else self.set)]


class DocumentOutcome(Struct):
    """The document as it is after the request, and what the request changed of its links."""

    row: DocumentRow
    created: bool = False
    changed: bool = False
    linked: list[UUID] = field(default_factory=list)
    restored: list[UUID] = field(default_factory=list)
    unlinked: list[UUID] = field(default_factory=list)
    updated: list[UUID] = field(default_factory=list)

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


LinkPages = AsyncIterator[list[LinkRow]]
"""A document's active links, oldest first, a page at a time."""


class DocumentRequest(Struct, frozen=True, kw_only=True):
    """A write to a whole document.

    `respond` is called inside the transaction, since its reply may have to be stored in it, with the
    outcome and the links as they are then; it must do no I/O but take the pages of links.
    """

    caller: Caller
    operation: Operation
    document_id: str
    respond: Callable[[DocumentOutcome, LinkPages], Awaitable[Reply]]
    fields: Fields = Fields()
    edits: LinkEdits = LinkEdits()
    preconditions: Preconditions | None = None
    idempotency: Idempotency | None = None

    @property
    def key(self) -> DocumentKey:
        """The document's key."""
        return (self.caller.workspace_id, self.document_id)


def admit(request: DocumentRequest, before: DocumentRow | None, *, made: bool) -> DocumentRow:
    """Return the row to work on (just inserted, if `made`).

    Raises:
        NotFound: there is no such document.
        Conflict: the id is taken.
    """
    deleted = before is not None and before.deleted_at is not None
    if before is None or (deleted and request.operation in {"update", "delete"}):
        raise NotFound(f"document {request.document_id!r} does not exist")
    if request.operation == "create" and not made:
        raise Conflict(
            f"document {request.document_id!r} exists{' (deleted)' if deleted else ''}: choose another id"
        )
    return before


def check(state: State, request: DocumentRequest, before: DocumentRow, *, made: bool) -> None:
    """Check the entities, the room for links, and last the preconditions.

    Raises:
        NotFound: an entity to be linked does not exist.
        Conflict: the document would have too many links.
        PreconditionFailed: the document is not in the state that the caller requires.
    """
    for triple in request.edits.wanted:
        if triple.entity not in state.entities:
            raise NotFound(missing_entity(triple))
    _check_room(state, request)
    if request.preconditions is not None:
        # To be restored, a document that is deleted has to exist: there its revision counts.
        deleted = before.deleted_at is not None and request.operation != "restore"
        document = None if made else DocumentState(before.version, before.revision, deleted)
        request.preconditions.check(document)


def _check_room(state: State, request: DocumentRequest) -> None:
    """See that the document can have the links that are added, once those to remove are gone.

    A set has no more links than its list, and a restore no more than there were.
    """
    document = state.documents.get(request.key)
    if document is None or document.active is None:
        return
    links, edits = state.links, request.edits
    active = {t for t in (*edits.wanted, *edits.remove) if t in links and not links[t].deleted_at}
    added = len({item.triple for item in edits.add} - active)
    removed = len(active.intersection(edits.remove))
    if added and document.active - removed + added > MAX_LINKS:
        raise Conflict(too_many_links(request.document_id, document.active))


def link_changes(state: State, request: DocumentRequest, before: DocumentRow) -> list[Change]:
    """Return the changes of links, in order.

    The state holds the document's links that the request may be about: for a set, its active ones;
    for a restore, those that the deletion removed. A deletion's changes are those of `unlink_all`.
    """
    edits = request.edits
    if request.operation == "restore":
        return _restore(state, before)
    if edits.set is not None:
        return _replace(state, edits.set)
    removed = [Unlink(triple, missing_ok=True) for triple in edits.remove]
    return [*removed, *(Link(item.triple, item.role) for item in edits.add)]


def unlink_all(links: Iterable[LinkRow]) -> list[Change]:
    """Return the changes that unlink these."""
    return [Unlink(link.triple) for link in links]


def row_after(request: DocumentRequest, before: DocumentRow, draft: Draft) -> DocumentRow:
    """Return the document's row as the request leaves it, but for the counters."""
    if request.operation == "delete":
        return replace(before, deleted_at=draft.state.moment, deletion_id=draft.deletion_id)
    if request.operation == "restore":
        return replace(before, deleted_at=None, deletion_id=None)
    fields = request.fields
    return replace(
        before,
        display_name=before.display_name if fields.display_name is UNSET else fields.display_name,
        category=before.category if fields.category is UNSET else fields.category,
        metadata=before.metadata if fields.metadata is UNSET else fields.metadata,
        deleted_at=None,
        deletion_id=None,
    )


def same_fields(one: DocumentRow, other: DocumentRow) -> bool:
    """Whether two states of a document agree in all that a request can set."""
    return (
        one.display_name == other.display_name
        and one.category == other.category
        and one.deletion_id == other.deletion_id
        and one.metadata == other.metadata
    )


def _restore(state: State, before: DocumentRow) -> list[Change]:
    """Bring back the links that the document's deletion removed, if their entity is there."""
    if before.deletion_id is None:
        return []
    return [
        Link(link.triple)
        for link in state.links.values()
        if link.deletion_id == before.deletion_id and link.triple.entity in state.entities
    ]


def _replace(state: State, items: Sequence[Item]) -> list[Change]:
    """Remove what the set does not name, add what is not there, and give the roles that it names."""
    active = {triple for triple, link in state.links.items() if link.deleted_at is None}
    gone = active.difference(item.triple for item in items)
    changes: list[Change] = [Unlink(triple) for triple in state.links if triple in gone]
    for item in items:
        if item.triple not in active:
            changes.append(Link(item.triple, item.role))
        elif item.role is not None:
            changes.append(SetRole(item.triple, item.role))
    return changes
