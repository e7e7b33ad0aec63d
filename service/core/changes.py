"""What can be asked of links, what they look like as stored, and what became of a request."""

from datetime import datetime
from typing import Final, Literal, NamedTuple
from uuid import UUID

from msgspec import Struct

from service.core.events import Cause


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
    """A link's two ends, which are in the same workspace. There is at most one link between them."""

    document: DocumentKey
    entity: EntityKey


class Link(Struct, frozen=True):
    """Link the two ends; a role of None leaves the role of a restored link as it was."""

    key: LinkKey
    role: str | None = None


class Unlink(Struct, frozen=True):
    """Remove the link; refused if there is none, unless that is just as well.

    With `orphaned`, only if its entity is deleted: what a deletion that goes on must not do to an
    entity that has come back meanwhile.
    """

    key: LinkKey
    missing_ok: bool = False
    orphaned: bool = False


class SetRole(Struct, frozen=True):
    """Change the role of an active link, or clear it."""

    key: LinkKey
    role: str | None


Change = Link | Unlink | SetRole


class Caller(Struct, frozen=True):
    """On whose behalf: goes into every event, never holds the key itself."""

    workspace_id: str
    actor: str
    request_id: str
    traceparent: str | None = None


class LinkRow(Struct, frozen=True):
    """A link as stored."""

    key: LinkKey
    id: UUID
    role: str | None
    created_at: datetime
    deleted_at: datetime | None = None
    deleted_cause: Cause | None = None
    deletion_id: UUID | None = None


MAX_LINKS: Final = 5_000
"""Active links of a document. With that many, the longest write of a document takes about a second.

Each of them is an event and a row in the one transaction that deletes the document, and all of them
are in the answer that shows it.
"""


class DocumentState(Struct, frozen=True):
    """What deciding needs of a document: its counters, whether it is deleted, its active links.

    `active` is the number of its active links, or an upper bound of it. None: the document has room
    for more links than the transaction can make.
    """

    version: int
    revision: int
    deleted: bool = False
    active: int | None = None


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

    def same_fields(self, other: "DocumentRow") -> bool:
        """Whether both agree in all that a write can set."""
        return (
            self.display_name == other.display_name
            and self.category == other.category
            and self.deletion_id == other.deletion_id
            and self.metadata == other.metadata
        )


class EntityState(Struct, frozen=True):
    """What deciding about an entity's own row needs.

    `registered` says that this transaction made it known; `may_be_linked` that it has active links,
    or that another transaction may be making one.
    """

    deleted: bool
    registered: bool = False
    may_be_linked: bool = False


OutcomeKind = Literal["created", "existing", "restored", "updated", "unlinked", "unchanged"]


class Outcome(Struct, frozen=True):
    """What became of one change; no link only for an Unlink that had nothing to do."""

    kind: OutcomeKind
    link: LinkRow | None
