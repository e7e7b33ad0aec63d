"""Erasing: the rows are deleted as by a caller, with the events that are due, and then removed.

Each step can be repeated, so an interrupted erasure is continued by running it again.
"""

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager, suppress
from typing import TYPE_CHECKING, Final

import asyncpg

from service.core.documents import DocumentOutcome, DocumentWrite
from service.core.entities import EntityWrite
from service.core.errors import NotFound, Unavailable
from service.core.ids import IdSource
from service.core.values import Caller, DocumentKey, EntityKey, LinkRow
from service.core.writes import Reply, Slices
from service.store.database import INDEXES_ONLY, Database
from service.store.erasing.rows import (
    Removed,
    remove_documents,
    remove_entities,
    remove_links_to,
    remove_replies,
    vacuum_links,
)
from service.store.reading import FIRST
from service.store.writing.entities import linked_to
from service.store.writing.execute import Executor
from service.store.writing.group import GroupWriter
from service.store.writing.transaction import LOCK_TIMEOUT_MS, Transactions
from service.supervision import Supervisor

if TYPE_CHECKING:
    from service.store.database import Connection

ACTOR: Final = "operator"
"""The `actor` of the events, where those of a call have the id of its key."""
DONE: Final = Reply(200, b"")

PAGE: Final = 200
"""Documents or entities that are removed in one transaction."""
SEARCHED: Final = 5000
"""Documents that one statement searches for links to an entity, in some 20 ms."""
CONCURRENT: Final = 8
"""Deletions at the same time. They share transactions, and each may need a connection."""
ATTEMPTS: Final = 10
"""Attempts to erase what callers restore, make or link again at the same time."""

BEGIN: Final = f"""
SET LOCAL statement_timeout = 0;
SET LOCAL lock_timeout = {LOCK_TIMEOUT_MS};
{INDEXES_ONLY}
"""

DOCUMENTS: Final = """
SELECT id
FROM documents
WHERE workspace_id = $1 AND id > $2
ORDER BY workspace_id, id
LIMIT $3
"""

ENTITIES: Final = """
SELECT type, id
FROM entities
WHERE workspace_id = $1 AND (type, id) > ($2, $3)
ORDER BY workspace_id, type, id
LIMIT $4
"""

DOCUMENTS_LEFT: Final = """
SELECT id
FROM documents
WHERE workspace_id = $1 AND id = ANY ($2)
ORDER BY workspace_id, id
"""

# No index finds the removed links of an entity, so each document of the workspace is looked at. A search in
# document_links alone could not be bounded: one page might read the whole workspace.
LINKED_ONCE: Final = """
SELECT d.id, (
    SELECT l.entity_id = $3
    FROM document_links AS l
    WHERE l.workspace_id = d.workspace_id AND l.document_id = d.id
        AND l.entity_type = $2 AND l.entity_id >= $3
    ORDER BY l.entity_id -- only document_links_triple_key has this order
    LIMIT 1
)
FROM documents AS d
WHERE d.workspace_id = $1 AND d.id > $4
ORDER BY d.workspace_id, d.id
LIMIT $5
"""


class Eraser:
    """Erases documents and entities of one workspace, and counts the removed rows."""

    def __init__(
        self, database: Database, writer: GroupWriter, ids: IdSource, workspace_id: str
    ) -> None:
        self._database = database
        self._writer = writer
        self._workspace_id = workspace_id
        self._caller = Caller(workspace_id, ACTOR, ids.request_id())
        self._free = asyncio.Semaphore(CONCURRENT)
        self.removed = Removed()

    async def everything(self, on_page: Callable[[Removed], None]) -> None:
        """Erase all documents, entities and stored replies; call `on_page` after each page of them."""
        document = ""
        while rows := await self._fetch(DOCUMENTS, document, PAGE):
            await self._erase_documents([document for (document,) in rows])
            document = rows[-1][0]
            on_page(self.removed)
        async with self._database.acquire() as connection:
            await vacuum_links(connection)
        entity = ("", "")
        while rows := await self._fetch(ENTITIES, *entity, PAGE):
            keys = [EntityKey(self._workspace_id, *row) for row in rows]
            if not await self._remove_entities(keys):
                for key in keys:
                    await self._erase_entity(key)
            entity = tuple(rows[-1])
            on_page(self.removed)
        await self._remove_replies(None)

    async def document(self, document: str) -> None:
        """Erase a document with all its links, and the stored replies that mention it.

        Raises:
            Unavailable: the database is unreachable, or the document is locked or made again and again.
        """
        await self._erase_documents([document])
        await self._remove_replies(document)

    async def entity(self, key: EntityKey) -> None:
        """Erase an entity with all links to it, and the stored replies that mention it.

        Raises:
            Unavailable: the database is unreachable, or the entity is linked again and again.
        """
        await self._erase_entity(key)
        await self._remove_replies(key.id)

    async def _erase_documents(self, ids: Sequence[str]) -> None:
        left = ids
        for _ in range(ATTEMPTS):
            keys = [DocumentKey(self._workspace_id, document) for document in left]
            await asyncio.gather(*map(self._delete_document, keys))
            while (await self._remove_documents(keys)).is_full:
                pass
            left = [document for (document,) in await self._fetch(DOCUMENTS_LEFT, left)]
            if not left:
                return
        raise Unavailable(f"document {left[0]!r} is in use: run the command again")

    async def _erase_entity(self, key: EntityKey) -> None:
        for _ in range(ATTEMPTS):
            await self._delete_entity(key)
            await self._remove_links_to(key)
            if await self._remove_entities([key]):
                return
        raise Unavailable(f"{key.type} {key.id!r} is in use: run the command again")

    async def _delete_document(self, key: DocumentKey) -> None:
        write = DocumentWrite(caller=self._caller, operation="delete", key=key, respond=_done)
        async with self._free:
            with suppress(NotFound):  # it is deleted already
                await self._writer.write(write)

    async def _delete_entity(self, key: EntityKey) -> None:
        """Delete the entity in as many calls as it takes, as long as each of them removes links."""
        write = EntityWrite(caller=self._caller, operation="delete", key=key, reply=DONE)
        first = None
        while True:
            try:
                await self._writer.write(write)
            except NotFound:
                return
            except Unavailable:
                async with self._database.reading() as connection:
                    left = await linked_to(connection, key, FIRST, 1)
                if not left or left == first:
                    raise
                first = left
            else:
                return

    async def _remove_documents(self, keys: Sequence[DocumentKey]) -> Removed:
        async with self._transaction() as connection:
            removed = await remove_documents(connection, keys, None, wait=True)
        self.removed = self.removed.plus(removed)
        return removed

    async def _remove_links_to(self, entity: EntityKey) -> None:
        after = ""
        while rows := await self._fetch(LINKED_ONCE, entity.type, entity.id, after, SEARCHED):
            after = rows[-1][0]
            linked = [DocumentKey(self._workspace_id, row[0]) for row in rows if row[1]]
            for start in range(0, len(linked), PAGE):
                async with self._transaction() as connection:
                    keys = linked[start : start + PAGE]
                    removed = await remove_links_to(connection, entity, keys)
                self.removed = self.removed.plus(removed)

    async def _remove_entities(self, keys: Sequence[EntityKey]) -> bool:
        """Remove entities; False: there are links to one of them, and none was removed."""
        try:
            async with self._transaction() as connection:
                removed = await remove_entities(connection, keys)
        except asyncpg.ForeignKeyViolationError:
            return False
        self.removed = self.removed.plus(removed)
        return True

    async def _remove_replies(self, name: str | None) -> None:
        scope: bytes | None = b""
        while scope is not None:
            async with self._transaction() as connection:
                scope, removed = await remove_replies(connection, self._workspace_id, scope, name)
            self.removed = self.removed.plus(removed)

    @asynccontextmanager
    async def _transaction(self) -> AsyncIterator["Connection"]:
        async with (
            self._database.acquire() as connection,
            connection.transaction(isolation="read_committed"),  # overrides the database's default
        ):
            await connection.execute(BEGIN)
            yield connection

    async def _fetch(self, statement: str, *arguments: object) -> list[asyncpg.Record]:
        async with self._database.reading() as connection:
            return await connection.fetch(statement, self._workspace_id, *arguments)


@asynccontextmanager
async def erasing(database: Database, workspace_id: str) -> AsyncIterator[Eraser]:
    """Run the writer that deletes, and yield the eraser of a workspace."""
    ids = IdSource()
    executor = Executor(ids, database.measures, register_unknown=False)
    async with GroupWriter(Transactions(database), executor, Supervisor()) as writer:
        yield Eraser(database, writer, ids, workspace_id)


def _done(_: DocumentOutcome, __: Sequence[LinkRow]) -> Slices:
    yield from ()
    return DONE
