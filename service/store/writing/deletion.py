"""Registering and deleting entities: a deletion unlinks the entity everywhere, in several transactions."""

import time
from typing import Final
from uuid import UUID

from msgspec.structs import replace

from service.core.entities import EntityWrite
from service.core.errors import Unavailable
from service.core.links import LinksWrite
from service.core.values import DocumentKey, EntityKey, LinkKey, Unlink
from service.core.writes import Progress, Reply
from service.store.database import Database
from service.store.writing.group import GroupWriter

CASCADE_CHUNK: Final = 200
"""The most links removed in one transaction, which holds the locks of their documents."""

WORK_S: Final = 7.0
"""The time after which a call begins no further chunk and is answered 503; the edge's deadline is 11 s."""

FIRST: Final = UUID(int=0)

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


class EntityWriter:
    """Registers and deletes entities. If a deletion was interrupted, the next call continues it."""

    def __init__(self, database: Database, writer: GroupWriter) -> None:
        self._database = database
        self._writer = writer

    async def write(self, write: EntityWrite) -> Reply:
        """Write to the entity, after removing all links of an entity that is deleted.

        A deletion that was answered 503 may be complete when the caller repeats it, and is then answered
        404: another call completed it, or the transactions that were linking to the entity rolled back.

        Raises:
            Refusal: as in EntityWrite.decide.
            Unavailable: nothing was written, or the deletion is not complete; the detail says which.
        """
        answer = await self._writer.write_entity(write)
        if isinstance(answer, Reply):
            return answer
        try:
            return await self._finish(write, answer)
        except Unavailable as refusal:
            raise Unavailable(_not_complete(write.key)) from refusal.__cause__

    async def _finish(self, write: EntityWrite, answer: Reply | Progress) -> Reply:
        """Continue until the write is complete."""
        end = time.monotonic() + WORK_S
        deletes = write.operation == "delete"
        while isinstance(answer, Progress):
            if deletes:
                settle = replace(write, operation="settle", idempotency=None)
                await self._writer.write_entity(settle)
            unlinked = await self._unlink_everywhere(write, end)
            if isinstance(unlinked, Reply):
                return unlinked
            if Progress.SOME in {answer, unlinked}:
                write = replace(write, continues=True)
            answer = await self._writer.write_entity(write)
        return answer

    async def _unlink_everywhere(self, write: EntityWrite, end: float) -> Reply | Progress:
        """Unlink a deleted entity from all documents, a chunk at a time.

        The transaction of the last chunk stores and returns the reply of a deletion. If another call
        removes the last chunk, or the entity is to be registered, returns the progress of this call.

        Raises:
            Unavailable: not all links were removed before `end`.
        """
        key, after, done = write.key, FIRST, Progress.NONE
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
            reply = await self._writer.write(unlink)
            if is_last:
                return reply if deletes else Progress.SOME
            if time.monotonic() > end:
                raise Unavailable(_not_complete(key))
            done, after = Progress.SOME, found[CASCADE_CHUNK - 1][1]
        return done

    async def _linked(self, key: EntityKey, after: UUID) -> list[tuple[DocumentKey, UUID]]:
        """Return the next chunk of a deleted entity's documents and links, and one more if there is one."""
        async with self._database.reading() as connection:
            rows = await connection.fetch(LINKED, *key, after, CASCADE_CHUNK + 1)
        return [(DocumentKey(key.workspace_id, row["document_id"]), row["id"]) for row in rows]


def _not_complete(key: EntityKey) -> str:
    return (
        f"{key.type} {key.id!r} is deleted, but not all links to it are removed yet: call again "
        "to continue"
    )
