"""Decisions about an entity's own row: its registration, and its deletion in several transactions."""

from typing import Literal

from service.core.errors import NotFound
from service.core.preconditions import Preconditions
from service.core.values import EntityKey
from service.core.writes import LOCK_TIMEOUT_MS, Progress, Reply, State, Write


class EntityWrite(Write, frozen=True, kw_only=True):
    """A write to an entity's own row.

    `register` inserts the entity, or clears its deletion. `delete` marks it as deleted, so that no new
    link to it can be made; the deletion is complete when the entity has no active links. `settle` waits
    for the transactions that were linking to the entity when it was marked, so that their links are seen.
    """

    key: EntityKey
    operation: Literal["register", "delete", "settle"]
    reply: Reply
    reply_if_new: Reply | None = None
    """The reply if this write has registered the entity; None: `reply`."""
    preconditions: Preconditions | None = None
    """Conditions on whether the entity exists: an entity has no ETag. None: there are none."""
    continues: bool = False
    """Whether an earlier transaction of the same call has done a part of the deletion."""

    @property
    def lock_timeout_ms(self) -> int:
        """`settle` waits longer, since the entity is marked: a short wait would answer 503 more often."""
        return 9_000 if self.operation == "settle" else LOCK_TIMEOUT_MS

    def decide(self, state: State) -> Reply | Progress:
        """Return the reply, or the progress of the call if the deleted entity may still have links.

        Raises:
            NotFound: the entity is unknown, or its deletion was complete before this call.
            PreconditionFailed: the caller requires another state.
        """
        entity = state.entity_rows.get(self.key)
        if self.operation == "settle":
            return Progress.NONE
        if entity is None:
            raise NotFound(f"{self.key.type} {self.key.id!r} does not exist")
        if self.operation == "register":
            if entity.deleted:
                return Progress.NONE
            self._check(exists=not entity.registered)
            return (self.reply_if_new if entity.registered else None) or self.reply
        if not self.continues:
            self._check(exists=True)  # so does an entity whose deletion is not complete
        if not entity.deleted and not self.continues:
            state.deleted_entities.add(self.key)
            return Progress.SOME if entity.may_be_linked else self.reply
        if entity.deleted and entity.may_be_linked:
            return Progress.NONE
        if not self.continues:
            raise NotFound(
                f"{self.key.type} {self.key.id!r} is deleted, and nothing is linked to it"
            )
        return self.reply  # complete, or another call has registered the entity again

    def _check(self, *, exists: bool) -> None:
        if self.preconditions is not None:
            self.preconditions.check_untagged(exists=exists)
