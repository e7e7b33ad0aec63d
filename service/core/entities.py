"""Deciding about an entity's own row: it becomes known, or it is deleted step by step."""

from typing import Final, Literal

from service.core.changes import EntityKey
from service.core.errors import NotFound
from service.core.preconditions import Preconditions
from service.core.writes import Reply, State, Write

UNFINISHED: Final = Reply(0, b"")
MARKED: Final = Reply(0, b"marked")
"""The call goes on in another transaction: a status of 0 is neither sent nor stored for a retry. MARKED
says that this one has marked the entity as deleted.
"""


class EntityWrite(Write, frozen=True, kw_only=True):
    """A write to an entity's own row.

    `register` makes the entity known, or brings it back from deletion. `delete` marks it as deleted,
    so that no new link to it can be made; it is complete when nothing is linked to it. `settle` waits
    until every link that was being made when the entity was marked is visible.
    """

    key: EntityKey
    operation: Literal["register", "delete", "settle"]
    reply: Reply
    reply_if_new: Reply | None = None
    """Where the entity was not known, or was deleted, until it was registered just now."""
    preconditions: Preconditions | None = None
    """On whether the entity exists: it has no entity tag."""
    continues: bool = False
    """Whether an earlier transaction of the same call has done a part of it."""

    @property
    def lock_timeout_ms(self) -> int:
        """A deletion waits for those who are linking to the entity as long as its deadline lets it.

        A shorter wait would end with 503 after the entity was marked.
        """
        return 9_000 if self.operation == "settle" else 2_000

    def decide(self, state: State) -> Reply:
        """Return the reply; UNFINISHED or MARKED if the deleted entity may still have links.

        Raises:
            NotFound: there is nothing to delete.
            PreconditionFailed: the caller requires another state.
        """
        entity = state.entity_rows.get(self.key)
        if self.operation == "settle":
            return UNFINISHED
        if entity is None:
            raise NotFound(f"{self.key.type} {self.key.id!r} does not exist")
        if self.operation == "register":
            if entity.deleted:
                return UNFINISHED
            self._check(exists=not entity.registered)
            return (self.reply_if_new if entity.registered else None) or self.reply
        if not self.continues:
            self._check(exists=True)  # a deletion that goes on is of an entity that exists, too
        if not entity.deleted and not self.continues:
            state.deleted_entities.add(self.key)
            return MARKED if entity.may_be_linked else self.reply
        if entity.deleted and entity.may_be_linked:
            return UNFINISHED
        if not self.continues:
            raise NotFound(
                f"{self.key.type} {self.key.id!r} is deleted, and nothing is linked to it"
            )
        return self.reply  # complete, or registered again since

    def _check(self, *, exists: bool) -> None:
        if self.preconditions is not None:
            self.preconditions.check_untagged(exists=exists)
