"""A write as the store executes it: what it needs, the state that it decides on, and its reply."""

from collections.abc import Collection, Generator, Sequence
from datetime import datetime
from typing import NamedTuple

from msgspec import Struct, field
from msgspec.structs import replace

from service.core.events import OutboxRow
from service.core.ids import EPOCH, IdSource
from service.core.preconditions import Preconditions
from service.core.values import (
    Caller,
    DocumentKey,
    DocumentRow,
    DocumentState,
    EntityKey,
    EntityState,
    LinkKey,
    LinkRow,
)


class Reply(NamedTuple):
    """The reply to a caller. Status and body are stored under the call's Idempotency-Key.

    `revision`: the document's, sent as its ETag. `replayed`: an earlier call has stored the reply.
    """

    status: int
    body: bytes
    headers: tuple[tuple[bytes, bytes], ...] = ()
    revision: int | None = None
    replayed: bool = False


class Progress(NamedTuple):
    """The answer to a write whose call goes on in another transaction; it is neither sent nor stored.

    `written`: this transaction has done a part of the work. `settle`: other transactions may be linking to
    the deleted entity, so the next step is to wait for them.
    """

    written: bool = False
    settle: bool = False


Slices = Generator[None, None, Reply]
"""A large decision in slices: what was decided before a yield is saved at the yield."""


class Idempotency(NamedTuple):
    """Two SHA-256 digests: of method, path and key; of query and body."""

    scope: bytes
    fingerprint: bytes


class Unsaved(Struct):
    """The changes that a transaction has decided and not saved yet."""

    links: set[LinkKey] = field(default_factory=set)
    documents: set[DocumentKey] = field(default_factory=set)
    rows: set[DocumentKey] = field(default_factory=set)
    """Those of `documents` whose own fields change."""
    deleted_entity: EntityKey | None = None
    registered_entity: EntityKey | None = None
    """Its registration is saved already, and is the witness of the transaction."""
    outbox: list[OutboxRow] = field(default_factory=list)


class State(Struct):
    """The rows that a transaction has locked and read, with the changes that it has decided so far."""

    ids: IdSource
    now: datetime = EPOCH
    """The database's clock after the locks: the time of all rows that this transaction writes."""
    documents: dict[DocumentKey, DocumentState] = field(default_factory=dict)
    rows: dict[DocumentKey, DocumentRow] = field(default_factory=dict)
    """Documents that were read whole; their links are in `links`."""
    made: set[DocumentKey] = field(default_factory=set)
    """Documents in `rows` that this transaction has inserted."""
    entities: set[EntityKey] = field(default_factory=set)
    """Entities that exist and are not deleted, so that links to them can be made."""
    entity: EntityState | None = None
    """The row of the entity that an EntityWrite is about; None: there is none."""
    links: dict[LinkKey, LinkRow] = field(default_factory=dict)
    stored_links: set[LinkKey] = field(default_factory=set)
    """Links in `links` that have a row in the database."""
    unsaved: Unsaved = field(default_factory=Unsaved)

    def forget_saved(self) -> None:
        """Forget the changes that were saved: a transaction of many slices keeps one in memory."""
        self.stored_links |= self.unsaved.links
        self.unsaved = Unsaved()

    def links_of(self, key: DocumentKey) -> list[LinkRow]:
        """Return the links of a document in `rows`, oldest first, with the changes so far."""
        links = [link for link in self.links.values() if link.key.document == key]
        return sorted(links, key=lambda link: link.id.int)

    def row(self, key: DocumentKey) -> DocumentRow:
        """Return the row of a document in `rows`, with the changes so far."""
        row, counters = self.rows[key], self.documents[key]
        written = self.now if key in self.unsaved.documents else row.updated_at
        return replace(
            row, version=counters.version, revision=counters.revision, updated_at=written
        )

    def keep_row(self, key: DocumentKey, row: DocumentRow, *, fields_changed: bool) -> DocumentRow:
        """Replace the row of a document in `rows`, and return it with its new counters."""
        self.documents[key] = replace(self.documents[key], deleted=row.deleted_at is not None)
        if fields_changed:
            self.unsaved.rows.add(key)
        self.rows[key] = row
        return self.row(key)


class Needs(Struct, frozen=True):
    """The locks and rows that a write needs, as far as they are known before anything is read."""

    documents: Collection[DocumentKey] = ()
    """The documents to lock."""
    size: int = 1
    """The number of changes that the caller names. It bounds a group."""
    whole: DocumentKey | None = None
    """The document in `documents` to read whole, with all its links."""
    entity: EntityKey | None = None
    """The entity whose own row is written, in place of links."""
    makes_row: bool = False
    """Whether the row of `whole` or `entity` is inserted if it does not exist."""


class Write(Struct, frozen=True, kw_only=True):
    """The change that one call asks for. Deciding is pure: time and random ids come from the state."""

    caller: Caller
    idempotency: Idempotency | None = None
    """The scope under which the reply is stored; None: the call has no Idempotency-Key."""
    preconditions: Preconditions | None = None
    """The state that the caller requires; None: any."""

    @property
    def needs(self) -> Needs:
        """The locks and rows that are known before anything is read."""
        raise NotImplementedError

    def links(self, _: State) -> Sequence[LinkKey]:
        """Return the links to lock and read; called after a document was read whole."""
        return ()

    def unknown_entities(self, _: State) -> set[EntityKey]:
        """Return the unknown entities to be linked, which the entity policy `any` registers."""
        return set()

    @property
    def only_adds_links(self) -> bool:
        """Whether all changes add links, under no condition, and no reply has to be stored."""
        return False

    def changes_nothing(self, _: State) -> bool:
        """Whether deciding on the state, in which rows may be missing, would change nothing."""
        return False

    def decide(self, state: State) -> Reply | Progress | Slices:
        """Change the state, and return the reply.

        Raises:
            Refusal: the write is refused, and the state is unchanged.
        """
        raise NotImplementedError
