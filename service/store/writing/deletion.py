"""Rows of `entities`: what documents can be linked to."""

import time
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Final, Literal, NamedTuple
from uuid import UUID

from service.core.changes import Caller, EntityKey, Triple, Unlink
from service.core.errors import NotFound, Unavailable
from service.core.preconditions import Preconditions
from service.core.requests import Idempotency, Reply, Request
from service.store.database import Database
from service.store.writing.execute import replay_one
from service.store.writing.group import GroupWriter
from service.store.writing.registration import is_active, register_entities
from service.store.writing.statements import NO_REPLY, StoredReply, empty_state, write_changes
from service.store.writing.transaction import BEGIN_PATIENT, Witness, transact_alone

if TYPE_CHECKING:
    from service.store.database import Connection

CASCADE_CHUNK: Final = 200
"""Links that a deletion removes in one transaction; it holds their documents' locks meanwhile."""

WORK_S: Final = 7.0
"""After so many seconds a call begins no other chunk, and is answered 503: every write has a deadline."""

FIRST: Final = UUID(int=0)

BEGIN_WAITING: Final = f"{BEGIN_PATIENT}; SET LOCAL lock_timeout = '9s'"
"""The deletion waits for those who link to the entity as long as its deadline lets it: a shorter wait
would end with 503 after the entity was marked."""

# The UPDATE needs FOR NO KEY UPDATE, which does not conflict with the FOR KEY SHARE of those who are
# linking to the entity: it never waits for them.
MARK_DELETED: Final = """
UPDATE entities
SET deleted_at = clock_timestamp()
WHERE workspace_id = $1 AND type = $2 AND id = $3 AND deleted_at IS NULL
RETURNING true
"""

EXISTS: Final = "SELECT true FROM entities WHERE workspace_id = $1 AND type = $2 AND id = $3"

# FOR UPDATE waits for the transactions that locked the entity FOR KEY SHARE before it was marked. After
# that none can come: a deleted entity is not locked by those who want to link to it.
WAIT_FOR_LINKERS: Final = """
SELECT true
FROM entities
WHERE workspace_id = $1 AND type = $2 AND id = $3 AND deleted_at IS NOT NULL
FOR UPDATE
"""

NOBODY_LINKS: Final = f"{WAIT_FOR_LINKERS} SKIP LOCKED"

# Of an entity that is still deleted, in the order of the index that finds them, from where the last
# chunk ended: what is unlinked stays in the index until a vacuum, and would be walked over each time.
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


class Guards(NamedTuple):
    """What keeps a call from being carried out: an answer that was given before, or a condition."""

    idempotency: Idempotency | None
    preconditions: Preconditions | None

    def check(self, *, exists: bool) -> None:
        """Hold the entity, as it was before the call, against the conditions; it has no entity tag.

        Raises:
            PreconditionFailed: one of them is false.
        """
        if self.preconditions is not None:
            self.preconditions.check_untagged(exists=exists)


class EntityWriter:
    """Writes entities, each call in transactions of its own."""

    def __init__(self, database: Database, writer: GroupWriter) -> None:
        self._database = database
        self._writer = writer

    async def register(
        self,
        key: EntityKey,
        caller: Caller,
        respond: Callable[[bool], Reply],
        guards: Guards,
    ) -> Reply:
        """Make the entity known; `respond` is told whether it was not before.

        Raises:
            PreconditionFailed: it is, or is not, known before, as the caller does not want it.
        """

        async def step(connection: "Connection") -> tuple[Reply | None, Witness | None]:
            stored = await replay_one(connection, key[0], guards.idempotency)
            if stored is not None:
                return stored, None
            registered = await register_entities(connection, [key]) > 0
            if not await is_active(connection, key):
                return None, None  # its deletion is not complete
            guards.check(exists=not registered)
            reply = respond(registered)
            return reply, await _write(
                connection, key, guards.idempotency, reply, entity_written=registered
            )

        while (reply := await transact_alone(self._database, step)) is None:
            await self._unlink_everywhere(key, caller)
        return reply

    async def delete(self, key: EntityKey, caller: Caller, reply: Reply, guards: Guards) -> Reply:
        """Delete the entity and unlink it everywhere, in several transactions; again, to go on.

        After a call that was answered 503 the next one may find nothing left to do, and is 404: the
        transactions that were linking to the entity were rolled back, or another call went on.

        Raises:
            NotFound: it is unknown, or deleted with nothing left to unlink.
            PreconditionFailed: an If-Match that names a tag, or `If-None-Match: *`.
            Unavailable: nothing was written, or the deletion is not complete; the detail says which.
        """
        idempotency = guards.idempotency
        found = await transact_alone(self._database, partial(_mark_deleted, key, guards, reply))
        if isinstance(found, Reply):
            return found
        try:
            wait = partial(_wait_for_linkers, key)
            await transact_alone(self._database, wait, begin=BEGIN_WAITING)
            done = await self._unlink_everywhere(key, caller, reply, idempotency)
            if isinstance(done, Reply):
                return done
            did_anything = done or found == "deleted now"
            conclude = partial(_conclude, key, idempotency, reply if did_anything else None)
            return await transact_alone(self._database, conclude)
        except Unavailable as refusal:
            raise Unavailable(_not_complete(key)) from refusal.__cause__

    async def _unlink_everywhere(
        self,
        key: EntityKey,
        caller: Caller,
        reply: Reply = NO_REPLY,
        idempotency: Idempotency | None = None,
    ) -> Reply | bool:
        """Unlink a deleted entity from all documents, a chunk at a time.

        The last chunk's transaction stores the reply, and is the one that returns it. Where others
        take the last chunk (a second deletion, a revival), returns whether any was left to us.

        Raises:
            Unavailable: there are more links than can be removed in the time of one call.
        """
        unlinked, after = False, FIRST
        end = time.monotonic() + WORK_S
        while found := await self._linked(key, after):
            is_last = len(found) <= CASCADE_CHUNK
            triples = [Triple(key[0], document_id, *key[1:]) for document_id, _ in found]
            changes = [Unlink(t, missing_ok=True, orphaned=True) for t in triples[:CASCADE_CHUNK]]
            request = Request(
                caller=caller,
                cause="entity_deleted",
                changes=changes,
                respond=lambda *_: reply,
                idempotency=idempotency if is_last else None,
            )
            answer = await self._writer.write(request)
            if is_last:
                return answer
            if time.monotonic() > end:
                raise Unavailable(_not_complete(key))
            unlinked, after = True, found[CASCADE_CHUNK - 1][1]
        return unlinked

    async def _linked(self, key: EntityKey, after: UUID) -> list[tuple[str, UUID]]:
        """Return a chunk of a deleted entity's documents and links, and one more if there is more."""
        async with self._database.reading() as connection:
            rows = await connection.fetch(LINKED, *key, after, CASCADE_CHUNK + 1)
        return [(row[0], row[1]) for row in rows]


def _not_complete(key: EntityKey) -> str:
    return (
        f"{key[1]} {key[2]!r} is deleted, but not all links to it are removed yet: call again, and "
        "it goes on"
    )


async def _mark_deleted(
    key: EntityKey, guards: Guards, reply: Reply, connection: "Connection"
) -> tuple[Reply | Literal["deleted now", "deleted before"], Witness | None]:
    """Mark the entity as deleted, so that no new link to it can be made.

    If no link to it exists or is being made, the deletion is complete, and the reply is returned.

    Raises:
        NotFound: it is unknown.
        PreconditionFailed: the caller requires another state of it.
    """
    idempotency = guards.idempotency
    stored = await replay_one(connection, key[0], idempotency)
    if stored is not None:
        return stored, None
    marked = await connection.fetchval(MARK_DELETED, *key)
    if not marked and not await connection.fetchval(EXISTS, *key):
        raise NotFound(f"{key[1]} {key[2]!r} does not exist")
    guards.check(exists=True)  # a deletion that goes on is of an entity that exists, too
    if not marked:
        return "deleted before", None
    nobody_links = await connection.fetchval(NOBODY_LINKS, *key)
    if nobody_links and not await connection.fetch(LINKED, *key, FIRST, 1):
        return reply, await _write(connection, key, idempotency, reply, entity_written=True)
    return "deleted now", await _write(connection, key, None, reply, entity_written=True)


async def _wait_for_linkers(key: EntityKey, connection: "Connection") -> tuple[None, None]:
    """Wait until every link that was being made when the entity was marked is visible."""
    await connection.execute(WAIT_FOR_LINKERS, *key)
    return None, None


async def _conclude(
    key: EntityKey, idempotency: Idempotency | None, reply: Reply | None, connection: "Connection"
) -> tuple[Reply, Witness | None]:
    """Answer when others took the last chunk; without a reply, when there was nothing to do for us.

    Raises:
        NotFound: nor has this call been answered before.
    """
    stored = await replay_one(connection, key[0], idempotency)
    if stored is not None:
        return stored, None
    if reply is None:
        raise NotFound(f"{key[1]} {key[2]!r} is deleted, and nothing is linked to it")
    return reply, await _write(connection, key, idempotency, reply, entity_written=False)


async def _write(
    connection: "Connection",
    key: EntityKey,
    idempotency: Idempotency | None,
    reply: Reply,
    *,
    entity_written: bool,
) -> Witness | None:
    """Store the reply if the call has a key; return the transaction's witness if it wrote anything."""
    replies = [] if idempotency is None else [StoredReply(key[0], idempotency, reply)]
    if not replies and not entity_written:
        return None
    state = await empty_state(connection)
    return await write_changes(
        connection, state, replies, also_wrote_in=key[0] if entity_written else None
    )
