"""What can be asked of links, what they look like as stored, and what became of a request."""

from datetime import datetime
from typing import Final, Literal, NamedTuple
from uuid import UUID

from msgspec import Struct

from service.core.events import Cause

DocumentKey = tuple[str, str]
"""Workspace, document."""
EntityKey = tuple[str, str, str]
"""Workspace, entity type, entity id."""


class Triple(NamedTuple):
    """What makes a link one link."""

    workspace_id: str
    document_id: str
    entity_type: str
    entity_id: str

    @property
    def document(self) -> DocumentKey:
        """The key of the document's end."""
        return self[:2]

    @property
    def entity(self) -> EntityKey:
        """The key of the entity's end."""
        return (self[0], self[2], self[3])


class Link(Struct, frozen=True):
    """Link the two ends; a role of None leaves the role of a restored link as it was."""

    triple: Triple
    role: str | None = None


class Unlink(Struct, frozen=True):
    """Remove the link; refused if there is none, unless that is just as well.

    With `orphaned`, only if its entity is deleted: what a deletion that goes on must not do to an
    entity that has come back meanwhile.
    """

    triple: Triple
    missing_ok: bool = False
    orphaned: bool = False


class SetRole(Struct, frozen=True):
    """Change the role of an active link, or clear it."""

    triple: Triple
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

    triple: Triple
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


OutcomeKind = Literal["created", "existing", "restored", "updated", "unlinked", "unchanged"]


class Outcome(Struct, frozen=True):
    """What became of one change; no link only for an Unlink that had nothing to do."""

    kind: OutcomeKind
    link: LinkRow | None
