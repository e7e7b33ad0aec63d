"""What writes: one shape for links, documents and entities, and the reply that a caller gets.

The store locks and reads what a write needs, lets it decide, and saves what it decided. Several writes
may share a transaction; they decide one after the other on one state.
"""

from collections.abc import Generator, Sequence
from datetime import datetime
from typing import NamedTuple

from msgspec import Struct, field
from msgspec.structs import replace

from service.core import events
from service.core.changes import (
    Caller,
    DocumentKey,
    DocumentRow,
    DocumentState,
    EntityKey,
    EntityState,
    LinkKey,
    LinkRow,
)
from service.core.ids import EPOCH, IdSource, microseconds


class Reply(NamedTuple):
    """What the caller gets; status and body are what an Idempotency-Key stores."""

    status: int
    body: bytes
    headers: tuple[tuple[bytes, bytes], ...] = ()
    replayed: bool = False


def etag(revision: int) -> tuple[bytes, bytes]:
    """Return the header with a document's revision as a strong entity tag (RFC 9110, 8.8.3)."""
    return (b"etag", b'"%d"' % revision)


Slices = Generator[None, None, Reply]
"""The steps of a large decision: what is decided before each yield can be saved then."""


class Idempotency(NamedTuple):
    """Two SHA-256 digests: of method, path and key; of query and body."""

    scope: bytes
    fingerprint: bytes


class State(Struct):
    """What one transaction has locked and read; after deciding, also what it has to write."""

    ids: IdSource
    now: datetime = EPOCH
    """Taken after the locks: the time of everything that this transaction writes."""
    documents: dict[DocumentKey, DocumentState] = field(default_factory=dict)
    rows: dict[DocumentKey, DocumentRow] = field(default_factory=dict)
    """Documents that were read whole; their links are in `links`."""
    made: set[DocumentKey] = field(default_factory=set)
    """Those of `rows` that this transaction has inserted."""
    entities: set[EntityKey] = field(default_factory=set)
    """Those that can be linked to."""
    entity_rows: dict[EntityKey, EntityState] = field(default_factory=dict)
    links: dict[LinkKey, LinkRow] = field(default_factory=dict)
    stored_links: set[LinkKey] = field(default_factory=set)
    """Those of `links` that have a row already."""
    written_links: set[LinkKey] = field(default_factory=set)
    written_documents: set[DocumentKey] = field(default_factory=set)
    written_rows: dict[DocumentKey, DocumentRow] = field(default_factory=dict)
    """Documents whose own fields change; their counters are in `documents`."""
    deleted_entities: set[EntityKey] = field(default_factory=set)
    registered_entities: set[EntityKey] = field(default_factory=set)
    """Those whose rows this transaction has inserted, or brought back, for their own sake."""
    outbox: list[events.OutboxRow] = field(default_factory=list)
    now_us: int = 0
    """`now` in microseconds since 1970, as ids take it."""
    now_text: str = ""
    """`now` as events and replies have it."""

    def forget_written(self) -> None:
        """Drop what has been written, so that a long transaction holds no more than a part of it."""
        self.stored_links.update(self.written_links)
        self.written_links.clear()
        self.written_documents.clear()
        self.written_rows.clear()
        self.deleted_entities.clear()
        self.registered_entities.clear()
        self.outbox.clear()

    def set_time(self, locked_at: datetime) -> None:
        """Take the time of a statement that has locked."""
        self.now = locked_at
        self.now_us = microseconds(locked_at)
        self.now_text = events.timestamp(locked_at)

    def links_of(self, key: DocumentKey) -> list[LinkRow]:
        """Return the links of a document that was read whole, oldest first, as they are now."""
        links = [link for link in self.links.values() if link.key.document == key]
        return sorted(links, key=lambda link: link.id.int)

    def row(self, key: DocumentKey) -> DocumentRow | None:
        """Return a document that was read whole, as it is now; None: there is none."""
        row, counters = self.rows.get(key), self.documents.get(key)
        if row is None or counters is None:
            return row
        written = self.now if key in self.written_documents else row.updated_at
        return replace(
            row, version=counters.version, revision=counters.revision, updated_at=written
        )

    def keep_row(self, key: DocumentKey, row: DocumentRow) -> None:
        """Make the fields of a document the state's, to be written if they have changed."""
        self.documents[key] = replace(self.documents[key], deleted=row.deleted_at is not None)
        if not row.same_fields(self.rows[key]):
            self.written_rows[key] = row
        self.rows[key] = row


class Write(Struct, frozen=True, kw_only=True):
    """What one caller wants to be written. Deciding is pure: no I/O, no clock, no chance."""

    caller: Caller
    idempotency: Idempotency | None = None
    """Where the reply is stored; None: the call had no Idempotency-Key."""

    @property
    def size(self) -> int:
        """How many links the write is about, as far as is known before it is locked."""
        return 1

    @property
    def documents(self) -> set[DocumentKey]:
        """Documents whose locks the write needs."""
        return set()

    @property
    def lock_timeout_ms(self) -> int:
        """The longest wait for a lock, where the write has a transaction of its own."""
        return 2_000

    def links(self, _: State) -> Sequence[LinkKey]:
        """Return the links to lock and read; the state has the whole document, if one is needed."""
        return ()

    def unknown_entities(self, _: State) -> set[EntityKey]:
        """Return the entities to be linked to that are not known; the policy `any` registers them."""
        return set()

    def decide(self, state: State) -> Reply | Slices:
        """Decide on the state, and return the reply.

        Raises:
            Refusal: nothing of this write is to be saved; the state is as it was.
        """
        raise NotImplementedError
