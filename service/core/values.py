"""The values that are decided about: keys, changes of links, stored rows, and outcomes."""

from datetime import datetime
from typing import Final, Literal, NamedTuple
from uuid import UUID

from msgspec import Struct

Cause = Literal[
    "link", "unlink", "update", "batch", "document_deleted", "document_restored", "entity_deleted"
]
"""The kind of call that has changed a link."""


class DocumentKey(NamedTuple):
    """A document of a workspace."""

    workspace_id: str
    id: str


class EntityKey(NamedTuple):
    """An entity of a workspace."""

    workspace_id: str
    type: str
    id: str


class LinkKey(NamedTuple):
    """A link's document and entity, in the same workspace. There is at most one link between them."""

    document: DocumentKey
    entity: EntityKey


class AddLink(Struct, frozen=True):
    """Link the document to the entity. With a role of None, a restored link keeps its role."""

    key: LinkKey
    role: str | None = None


class Unlink(Struct, frozen=True):
    """Remove the link. Without an active link it is refused, or does nothing if `missing_ok`.

    With `orphaned`, the link is removed only if its entity is deleted: another call may have registered
    the entity again while its deletion still removes links.
    """

    key: LinkKey
    missing_ok: bool = False
    orphaned: bool = False


class SetRole(Struct, frozen=True):
    """Change the role of an active link, or clear it."""

    key: LinkKey
    role: str | None


Change = AddLink | Unlink | SetRole


class Caller(Struct, frozen=True):
    """The authenticated caller, as events name it. `actor` is the API key's public id, never the key."""

    workspace_id: str
    actor: str
    request_id: str
    traceparent: str | None = None
    tracestate: str | None = None


class LinkRow(Struct, frozen=True):
    """A stored link."""

    key: LinkKey
    id: UUID
    role: str | None
    created_at: datetime
    deleted_at: datetime | None = None
    deleted_cause: Cause | None = None
    deletion_id: UUID | None = None


MAX_LINKS: Final = 5_000
"""The most active links of a document. The deletion of such a document takes about a second: it writes a row
and an event for each link in one transaction."""


class DocumentState(Struct, frozen=True):
    """A document's counters, whether it is deleted, and how many active links it has.

    `active` is None if the links were not counted, since the document has room for all links that this
    transaction may add.
    """

    version: int
    revision: int
    deleted: bool = False
    active: int | None = None


class DocumentRow(Struct, frozen=True):
    """A stored document; `metadata` is the text of a jsonb value."""

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


class EntityState(Struct, frozen=True):
    """An entity's own row, as it was read.

    `linked`: the entity has active links. `may_be_linking`: another transaction may be adding one.
    `registered`: this transaction has inserted the row, or cleared its deletion.
    """

    deleted: bool
    linked: bool
    may_be_linking: bool = False
    registered: bool = False


OutcomeKind = Literal["created", "existing", "restored", "updated", "unlinked", "unchanged"]


class Outcome(Struct, frozen=True):
    """The result of one change; `link` is None only if an Unlink found no link."""

    kind: OutcomeKind
    link: LinkRow | None
