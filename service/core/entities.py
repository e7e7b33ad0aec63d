"""Decisions about an entity's own row: its registration, and its deletion in several transactions."""

from collections.abc import Iterable
from datetime import datetime
from typing import Literal, NamedTuple
from uuid import UUID

from service.core.errors import NotFound
from service.core.events import EventMaker
from service.core.ids import microseconds
from service.core.values import DocumentKey, EntityKey, LinkKey, LinkRow
from service.core.writes import Needs, Progress, Reply, State, Write


class RemovedLink(NamedTuple):
    """A link that was removed because its entity is deleted, with its document's new version."""

    document_id: str
    document_version: int
    id: UUID
    role: str | None
    created_at: datetime
    removed_at: datetime


class EntityWrite(Write, frozen=True, kw_only=True):
    """A write to an entity's own row.

    `register` inserts the entity, or clears its deletion. `delete` marks it as deleted, so that no new
    link to it can be made; the deletion is complete when the entity has no active links.
    Preconditions are about whether the entity exists: it has no ETag.
    """

    key: EntityKey
    operation: Literal["register", "delete"]
    reply: Reply
    reply_if_new: Reply | None = None
    """The reply if this write has registered the entity; None: `reply`."""
    continues: bool = False
    """Whether an earlier transaction of the same call has done a part of the deletion."""

    @property
    def needs(self) -> Needs:
        """The entity's row."""
        return Needs(entity=self.key, makes_row=self.operation == "register")

    def decide(self, state: State) -> Reply | Progress:
        """Return the reply, or the progress of the call if the deleted entity may still have links.

        Raises:
            NotFound: the entity is unknown, or its deletion was complete before this call.
            PreconditionFailed: the caller requires another state.
        """
        entity = state.entity
        if entity is None:
            if self.continues:
                return self.reply  # complete, and its row is erased
            raise NotFound(f"{self.key.type} {self.key.id!r} does not exist")
        if self.operation == "register":
            if entity.deleted:
                return Progress()
            self._check(exists=not entity.registered)
            return (self.reply_if_new if entity.registered else None) or self.reply
        if not self.continues:
            self._check(exists=True)  # so does an entity whose deletion is not complete
        marks = not entity.deleted and not self.continues
        if marks:
            state.unsaved.deleted_entity = self.key
        if (entity.deleted or marks) and (entity.linked or entity.may_be_linking):
            return Progress(written=marks, settle=entity.may_be_linking)
        if marks:
            return self.reply
        if not self.continues:
            raise NotFound(
                f"{self.key.type} {self.key.id!r} is deleted, and nothing is linked to it"
            )
        return self.reply  # complete, or another call has registered the entity again

    def make_events(self, state: State, removed: Iterable[RemovedLink]) -> None:
        """Add the events of links that were removed because the entity is deleted, at the state's time."""
        now, entity = state.now, self.key
        events = EventMaker(self.caller, "entity_deleted", state.ids, now, microseconds(now))
        for document_id, version, link_id, role, created_at, _ in removed:
            key = LinkKey(DocumentKey(entity.workspace_id, document_id), entity)
            before = LinkRow(key, link_id, role, created_at)
            link = LinkRow(key, link_id, role, created_at, now, "entity_deleted")
            state.unsaved.outbox.append(events.make("document.unlinked", link, before, version))

    def _check(self, *, exists: bool) -> None:
        if self.preconditions is not None:
            self.preconditions.check_untagged(exists=exists)
