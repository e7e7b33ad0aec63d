"""An entity's own row, and its deletion: several transactions, which unlink the entity everywhere."""

import time
from collections.abc import Awaitable, Callable, Sequence
from datetime import datetime
from functools import partial
from typing import TYPE_CHECKING, Final, cast
from uuid import UUID

from msgspec.structs import replace

from service.core.entities import EntityWrite
from service.core.errors import Unavailable
from service.core.links import LinksWrite
from service.core.values import DocumentKey, EntityKey, EntityState, LinkKey, Unlink
from service.core.writes import Progress, Reply, State
from service.store.reading import FIRST
from service.store.writing.transaction import Transactions

if TYPE_CHECKING:
    from service.store.database import Connection
    from service.store.writing.execute import Member

SETTLE_TIMEOUT_MS: Final = 9_000
"""The longest wait of `_settle`. The entity is marked already, and LOCK_TIMEOUT_MS would often end in 503."""

CASCADE_CHUNK: Final = 200
"""The most links removed in one transaction, which holds the locks of their documents."""

WORK_S: Final = 7.0
"""The time after which a call begins no further chunk and is answered 503; the edge's deadline is 11 s."""

# An entity whose deletion is not complete, since it has active links, stays deleted.
# For NOT EXISTS the planner might build a hash of all links; so it is a sub-select with LIMIT.
REGISTER: Final = """
INSERT INTO entities AS e (workspace_id, type, id, created_at)
SELECT w, t, i, clock_timestamp()
FROM unnest($1::uuid[], $2::text[], $3::text[]) WITH ORDINALITY AS u (w, t, i, n)
ORDER BY n
ON CONFLICT (workspace_id, type, id) DO UPDATE
SET deleted_at = NULL, created_at = excluded.created_at
WHERE e.deleted_at IS NOT NULL
    AND (
        SELECT true FROM document_links AS l
        WHERE l.workspace_id = e.workspace_id AND l.entity_id = e.id AND l.entity_type = e.type
            AND l.deleted_at IS NULL
        LIMIT 1
    ) IS NULL
RETURNING e.created_at
"""

LOCK_ENTITY: Final = """
SELECT true
FROM entities
WHERE workspace_id = $1 AND type = $2 AND id = $3
"""
# FOR UPDATE conflicts with the FOR KEY SHARE of every transaction that is linking to the entity. FOR NO KEY
# UPDATE, which is enough to mark the entity, does not.
TRY_ENTITY: Final = f"{LOCK_ENTITY} FOR UPDATE SKIP LOCKED"
MARK_ENTITY: Final = f"{LOCK_ENTITY} FOR NO KEY UPDATE"
SETTLE_ENTITY: Final = f"{LOCK_ENTITY} AND deleted_at IS NOT NULL FOR UPDATE"

READ_ENTITY: Final = """
SELECT clock_timestamp(), deleted_at IS NOT NULL,
    EXISTS (
        SELECT FROM document_links AS l
        WHERE l.workspace_id = e.workspace_id AND l.entity_id = e.id AND l.entity_type = e.type
            AND l.deleted_at IS NULL
    )
FROM entities AS e
WHERE workspace_id = $1 AND type = $2 AND id = $3
"""

# Each chunk begins after the last link of the chunk before: removed links stay in the index until a vacuum,
# and would be read again each time. An entity that was registered again has no links to remove.
LINKED: Final = """
SELECT document_id, id
FROM document_links
WHERE workspace_id = $1 AND entity_type = $2 AND entity_id = $3 AND deleted_at IS NULL
    AND id > $4
    AND EXISTS (
        SELECT FROM entities
        WHERE workspace_id = $1 AND type = $2 AND id = $3 AND deleted_at IS NOT NULL
    )
ORDER BY workspace_id, entity_id, id
LIMIT $5
"""


async def register(connection: "Connection", keys: Sequence[EntityKey]) -> Sequence[datetime]:
    """Insert the entities, or clear their deletion.

    The keys must be sorted, so that nothing deadlocks. Returns a time for each entity that was changed.
    """
    rows = await connection.fetch(REGISTER, *zip(*keys, strict=True))
    return [row[0] for row in rows]


async def lock_entity(
    connection: "Connection", state: State, key: EntityKey, *, registers: bool
) -> None:
    """Register or lock the entity, and read it into the state by a later statement."""
    registered: Sequence[datetime] = ()
    may_be_linking = False
    if registers:
        registered = await register(connection, [key])
    elif not await connection.fetchval(TRY_ENTITY, *key):
        may_be_linking = True
        await connection.execute(MARK_ENTITY, *key)
    row = await connection.fetchrow(READ_ENTITY, *key)
    if row is None:
        return
    locked_at, deleted, linked = row
    if registered:
        state.unsaved.registered_entity = key
    state.now = registered[0] if registered else locked_at
    state.entity = EntityState(
        deleted, linked, may_be_linking=may_be_linking, registered=bool(registered)
    )


async def _settle(connection: "Connection", key: EntityKey) -> None:
    """Wait for the transactions that were linking to the entity when it was marked, and see their links."""
    await connection.execute(SETTLE_ENTITY, *key)


class EntityUnlinker:
    """Removes the links of deleted entities, until the calls for these entities can be answered.

    If a deletion was interrupted, the next call continues it. A deletion that was answered 503 may be
    complete when the caller repeats it, and is then answered 404: another call completed it, or the
    transactions that were linking to the entity rolled back.
    """

    def __init__(
        self, transactions: Transactions, write: Callable[[LinksWrite], Awaitable[Reply]]
    ) -> None:
        """Take the function that writes to links, together with the writes of other callers if possible."""
        self._transactions = transactions
        self._write = write

    async def finish(
        self, member: "Member", transact: Callable[["Member"], Awaitable[None]]
    ) -> None:
        """Continue a write to an entity after its first transaction, until it has a reply.

        `transact` executes the write in one more transaction of its own.

        Raises:
            Refusal: a link could not be removed.
            Unavailable: the deletion is not complete.
        """
        write = cast("EntityWrite", member.write)
        end = time.monotonic() + WORK_S
        try:
            while isinstance(progress := member.answer, Progress):
                if progress.settle:
                    await self._transactions.run_alone(
                        partial(_settle, key=write.key), SETTLE_TIMEOUT_MS
                    )
                unlinked = await self._unlink_everywhere(write, member, end)
                if isinstance(unlinked, Reply):
                    member.answer = unlinked
                    return
                if progress.written or unlinked.written:
                    member.write = replace(write, continues=True)
                await transact(member)
        except Unavailable as refusal:
            raise Unavailable(_not_complete(write.key)) from refusal.__cause__

    async def _unlink_everywhere(
        self, write: EntityWrite, member: "Member", end: float
    ) -> Reply | Progress:
        """Unlink a deleted entity from all documents, a chunk at a time.

        The transaction of the last chunk stores and returns the reply of a deletion. If another call
        removes the last chunk, or the entity is to be registered, returns the progress of this call.

        Raises:
            Unavailable: not all links were removed before `end`, or the caller has disconnected.
        """
        key, after, progress = write.key, FIRST, Progress()
        deletes = write.operation == "delete"
        while found := await self._linked(key, after):
            is_last = len(found) <= CASCADE_CHUNK
            chunk = found[:CASCADE_CHUNK]
            unlink = LinksWrite(
                caller=write.caller,
                idempotency=write.idempotency if is_last and deletes else None,
                cause="entity_deleted",
                changes=[
                    Unlink(LinkKey(document, key), missing_ok=True, orphaned=True)
                    for document, _ in chunk
                ],
                respond=lambda *_: write.reply,
            )
            reply = await self._write(unlink)
            progress = Progress(written=True)
            if is_last:
                return reply if deletes else progress
            if time.monotonic() > end or member.future.done():
                raise Unavailable(_not_complete(key))
            after = chunk[-1][1]
        return progress

    async def _linked(self, key: EntityKey, after: UUID) -> list[tuple[DocumentKey, UUID]]:
        """Return the next chunk of a deleted entity's documents and links, and one more if there is one."""
        async with self._transactions.database.reading() as connection:
            rows = await connection.fetch(LINKED, *key, after, CASCADE_CHUNK + 1)
        return [(DocumentKey(key.workspace_id, row["document_id"]), row["id"]) for row in rows]


def _not_complete(key: EntityKey) -> str:
    return (
        f"{key.type} {key.id!r} is deleted, but not all links to it are removed yet: call again "
        "to continue"
    )
