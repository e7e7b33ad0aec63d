"""Deciding about a whole document: its fields, its links as a set, its deletion and return."""

from collections.abc import Callable, Iterable, Sequence
from datetime import datetime
from typing import Literal
from uuid import UUID

from msgspec import UNSET, Struct, UnsetType, field
from msgspec.structs import replace

from service.core import ids
from service.core.changes import Caller, DocumentKey, DocumentState, LinkRow, Outcome, Triple
from service.core.decide import Draft
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
    """The document as it is after the request, with its active links, oldest first."""

    row: DocumentRow
    created: bool = False
    changed: bool = True
    links: list[LinkRow] = field(default_factory=list)
    linked: list[UUID] = field(default_factory=list)
    restored: list[UUID] = field(default_factory=list)
    unlinked: list[UUID] = field(default_factory=list)
    updated: list[UUID] = field(default_factory=list)


class DocumentRequest(Struct, frozen=True, kw_only=True):
    """A write to a whole document; `respond` is called as that of core.requests.Request is."""

    caller: Caller
    operation: Operation
    document_id: str
    respond: Callable[[DocumentOutcome], Reply]
    fields: Fields = Fields()
    edits: LinkEdits = LinkEdits()
    preconditions: Preconditions | None = None
    idempotency: Idempotency | None = None

    @property
    def key(self) -> DocumentKey:
        """The document's key."""
        return (self.caller.workspace_id, self.document_id)


def decide_document(
    draft: Draft, request: DocumentRequest, before: DocumentRow | None, *, made: bool
) -> DocumentOutcome:
    """Decide about one document; `before` is its row (just inserted, if `made`).

    The draft's state holds its active links, and those that its deletion removed.

    Raises:
        NotFound: there is no such document, or an entity to be linked does not exist.
        Conflict: the id is taken.
        PreconditionFailed: the document is not at a revision that the request accepts.
    """
    row = row_before = _admit(request, before, made=made)
    was_deleted = row.deleted_at is not None
    # Being made is the first write, revision 1.
    draft.documents[request.key] = DocumentState(row.version, row.revision - made)
    if request.operation == "delete":
        row, outcomes = _delete(draft, row)
    elif request.operation == "restore":
        row, outcomes = _restore(draft, row)
    else:
        row = _with_fields(row, request.fields)
        outcomes = _edit_links(draft, request.edits)
    _check_preconditions(request, row_before, made=made)
    if not made and not draft.outbox and same_fields(row, row_before):
        draft.documents.clear()  # nothing to write
    draft.keep()
    state = draft.state.documents.get(request.key)
    if state is not None and request.key in draft.state.written_documents:
        row = replace(
            row, version=state.version, revision=state.revision, updated_at=draft.state.moment
        )
    outcome = _outcome(draft, row, outcomes)
    outcome.created = made or (request.operation == "put" and was_deleted)
    outcome.changed = request.key in draft.state.written_documents
    return outcome


def same_fields(one: DocumentRow, other: DocumentRow) -> bool:
    """Whether two states of a document agree in all that a request can set."""
    return (
        one.display_name == other.display_name
        and one.category == other.category
        and one.deletion_id == other.deletion_id
        and one.metadata == other.metadata
    )


def _admit(request: DocumentRequest, before: DocumentRow | None, *, made: bool) -> DocumentRow:
    """Return the row to work on, or refuse."""
    deleted = before is not None and before.deleted_at is not None
    if before is None or (deleted and request.operation in {"update", "delete"}):
        raise NotFound(f"document {request.document_id!r} does not exist")
    if request.operation == "create" and not made:
        raise Conflict(
            f"document {request.document_id!r} exists{' (deleted)' if deleted else ''}: choose another id"
        )
    return before


def _check_preconditions(request: DocumentRequest, before: DocumentRow, *, made: bool) -> None:
    """Check them last of all, since a caller has to know what is missing."""
    if request.preconditions is None:
        return
    # To be restored, a document that is deleted has to exist: there its revision counts.
    deleted = before.deleted_at is not None and request.operation != "restore"
    document = None if made else DocumentState(before.version, before.revision, deleted)
    request.preconditions.check(document)


def _delete(draft: Draft, row: DocumentRow) -> tuple[DocumentRow, list[Outcome]]:
    """Delete the document; its links remember which deletion it was."""
    moment = draft.state.moment
    deletion_id = ids.uuid7(draft.state.moment_us)
    outcomes = [draft.unlink(link.triple, deletion_id=deletion_id) for link in _active(draft)]
    key = (draft.caller.workspace_id, row.id)
    draft.documents[key] = replace(draft.documents[key], deleted=True)
    return replace(row, deleted_at=moment, deletion_id=deletion_id), outcomes


def _restore(draft: Draft, row: DocumentRow) -> tuple[DocumentRow, list[Outcome]]:
    """Bring back the document and the links that its deletion removed, if their entity is there."""
    if row.deleted_at is None:
        return row, []
    links = [
        link
        for link in _oldest_first(draft.state.links.values())
        if link.deletion_id == row.deletion_id and link.triple.entity in draft.state.entities
    ]
    outcomes = [draft.link(link.triple, None) for link in links]
    return replace(row, deleted_at=None, deletion_id=None), outcomes


def _with_fields(row: DocumentRow, fields: Fields) -> DocumentRow:
    """Return the row, active, with the fields that the request names."""
    return replace(
        row,
        display_name=row.display_name if fields.display_name is UNSET else fields.display_name,
        category=row.category if fields.category is UNSET else fields.category,
        metadata=row.metadata if fields.metadata is UNSET else fields.metadata,
        deleted_at=None,
        deletion_id=None,
    )


def _edit_links(draft: Draft, edits: LinkEdits) -> list[Outcome]:
    """Remove first, then add; a set removes what it does not name, and gives the roles that it names."""
    if edits.set is None:
        outcomes = [draft.unlink(triple, missing_ok=True) for triple in edits.remove]
        return outcomes + [draft.link(item.triple, item.role) for item in edits.add]
    wanted = {item.triple for item in edits.set}
    outcomes = [draft.unlink(link.triple) for link in _active(draft) if link.triple not in wanted]
    for item in edits.set:
        outcome = draft.link(item.triple, item.role)
        if outcome.kind == "existing" and item.role is not None:
            outcome = draft.set_role(item.triple, item.role)
        outcomes.append(outcome)
    return outcomes


def _active(draft: Draft) -> list[LinkRow]:
    """Return the document's active links as stored, oldest first."""
    return _oldest_first(link for link in draft.state.links.values() if link.deleted_at is None)


def _oldest_first(links: Iterable[LinkRow]) -> list[LinkRow]:
    return sorted(links, key=lambda link: (link.created_at, link.id))


def _outcome(draft: Draft, row: DocumentRow, outcomes: list[Outcome]) -> DocumentOutcome:
    """Sort what became of the links by its kind."""
    result = DocumentOutcome(row, links=_active(draft))
    into = {
        "created": result.linked,
        "restored": result.restored,
        "unlinked": result.unlinked,
        "updated": result.updated,
    }
    for outcome in outcomes:
        if outcome.kind in into and outcome.link is not None:
            into[outcome.kind].append(outcome.link.id)
    return result
