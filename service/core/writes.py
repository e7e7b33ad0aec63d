"""A write as the store executes it: what it needs, the state that it decides on, and its reply."""

from collections.abc import Generator, Sequence
from datetime import datetime
from enum import Enum, auto
from typing import Final, NamedTuple

from msgspec import Struct, field
from msgspec.structs import replace

from service.core import events
from service.core.ids import EPOCH, IdSource, microseconds
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

LOCK_TIMEOUT_MS: Final = 2_000
"""The longest wait for each lock. After it the caller is answered 503."""


class Reply(NamedTuple):
    """The reply to a caller. Status and body are stored under the call's Idempotency-Key.

    `replayed`: an earlier call has stored the reply.
    """

    status: int
    body: bytes
    headers: tuple[tuple[bytes, bytes], ...] = ()
    replayed: bool = False


def etag(revision: int) -> tuple[bytes, bytes]:
    """Return the ETag header of a document's revision (RFC 9110, 8.8.3)."""
    return (b"etag", b'"%d"' % revision)


class Progress(Enum):
    """The answer to a write whose call goes on in another transaction; it is neither sent nor stored."""

    NONE = auto()
    """This transaction has written nothing."""
    SOME = auto()
    """This transaction has done a part of the work."""


Slices = Generator[None, None, Reply]
"""A large decision in slices: what was decided before a yield is saved at the yield."""


class Idempotency(NamedTuple):
    """Two SHA-256 digests: of method, path and key; of query and body."""

    scope: bytes
    fingerprint: bytes


class State(Struct):
    """The rows that a transaction has locked and read; after deciding, also the changes to save."""

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
    entity_rows: dict[EntityKey, EntityState] = field(default_factory=dict)
    links: dict[LinkKey, LinkRow] = field(default_factory=dict)
    stored_links: set[LinkKey] = field(default_factory=set)
    """Links in `links` that have a row in the database."""
    written_links: set[LinkKey] = field(default_factory=set)
    written_documents: set[DocumentKey] = field(default_factory=set)
    written_rows: dict[DocumentKey, DocumentRow] = field(default_factory=dict)
    """Documents whose own fields change; their counters are in `documents`."""
    deleted_entities: set[EntityKey] = field(default_factory=set)
    registered_entities: set[EntityKey] = field(default_factory=set)
    """Entities that an EntityWrite of this transaction has registered."""
    outbox: list[events.OutboxRow] = field(default_factory=list)
    now_us: int = 0
    """`now` in microseconds since 1970, for ids."""
    now_text: str = ""
    """`now` in ISO 8601, for events."""

    def forget_written(self) -> None:
        """Forget the changes that were saved: a transaction of many slices keeps one in memory."""
        self.stored_links.update(self.written_links)
        self.written_links.clear()
        self.written_documents.clear()
        self.written_rows.clear()
        self.deleted_entities.clear()
        self.registered_entities.clear()
        self.outbox.clear()

    def set_time(self, locked_at: datetime) -> None:
        """Set the time of the transaction."""
        self.now = locked_at
        self.now_us = microseconds(locked_at)
        self.now_text = events.timestamp(locked_at)

    def links_of(self, key: DocumentKey) -> list[LinkRow]:
        """Return the links of a document in `rows`, oldest first, with the changes so far."""
        links = [link for link in self.links.values() if link.key.document == key]
        return sorted(links, key=lambda link: link.id.int)

    def row(self, key: DocumentKey) -> DocumentRow | None:
        """Return the row of a document in `rows`, with the changes so far; None: there is none."""
        row, counters = self.rows.get(key), self.documents.get(key)
        if row is None or counters is None:
            return row
        written = self.now if key in self.written_documents else row.updated_at
        return replace(
            row, version=counters.version, revision=counters.revision, updated_at=written
        )

    def keep_row(self, key: DocumentKey, row: DocumentRow) -> None:
        """Replace the row of a document in `rows`; it is saved if a field has changed."""
        self.documents[key] = replace(self.documents[key], deleted=row.deleted_at is not None)
        if not row.same_fields(self.rows[key]):
            self.written_rows[key] = row
        self.rows[key] = row


class Write(Struct, frozen=True, kw_only=True):
    """The change that one call asks for. Deciding is pure: time and random ids come from the state."""

    caller: Caller
    idempotency: Idempotency | None = None
    """The scope under which the reply is stored; None: the call has no Idempotency-Key."""

    @property
    def size(self) -> int:
        """The number of changes, as far as it is known before anything is read. It bounds a group."""
        return 1

    @property
    def documents(self) -> set[DocumentKey]:
        """The documents to lock."""
        return set()

    @property
    def lock_timeout_ms(self) -> int:
        """The longest wait for each lock, in milliseconds, in a transaction that waits for locks."""
        return LOCK_TIMEOUT_MS

    def links(self, _: State) -> Sequence[LinkKey]:
        """Return the links to lock and read; called after a DocumentWrite's document was read whole."""
        return ()

    def unknown_entities(self, _: State) -> set[EntityKey]:
        """Return the unknown entities to be linked, which the entity policy `any` registers."""
        return set()

    def decide(self, state: State) -> Reply | Progress | Slices:
        """Change the state, and return the reply.

        Raises:
            Refusal: the write is refused, and the state is unchanged.
        """
        raise NotImplementedError
