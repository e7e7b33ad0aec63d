"""A database of version 0.1 with a million links and a full ring, and writers as its programs are."""

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Final, Self
from uuid import UUID, uuid4

import asyncpg

WORKSPACE: Final = UUID(int=1)
DOCUMENTS: Final = 10_000
LINKS_EACH: Final = 100
SLOTS: Final = 16
EVENTS_EACH: Final = 10_000

# Foreign keys are not checked, one by one, while a superuser fills the tables.
FILL: Final = f"""
BEGIN;
SET LOCAL session_replication_role = replica;
INSERT INTO workspaces (id, name) VALUES ('{WORKSPACE}', 'large');
INSERT INTO documents (workspace_id, id, version, revision)
SELECT '{WORKSPACE}', 'doc_' || n, {LINKS_EACH}, {LINKS_EACH}
FROM generate_series(1, {DOCUMENTS}) AS n;
INSERT INTO entities (workspace_id, type, id)
SELECT '{WORKSPACE}', 'item', 'item_' || n
FROM generate_series(1, {DOCUMENTS}) AS n;
INSERT INTO document_links (workspace_id, document_id, id, entity_type, entity_id, created_at)
SELECT '{WORKSPACE}', 'doc_' || d, lpad(to_hex(d * {LINKS_EACH} + e), 32, '0')::uuid,
    'item', 'item_' || e, now()
FROM generate_series(1, {DOCUMENTS}) AS d, generate_series(1, {LINKS_EACH}) AS e;
INSERT INTO outbox (slot, event_id, event_type, key, payload)
SELECT s, gen_random_uuid(), 'document.linked', '{WORKSPACE}/doc_' || n, convert_to(repeat('x', 800), 'UTF8')
FROM generate_series(0, {SLOTS - 1}) AS s, generate_series(1, {EVENTS_EACH}) AS n;
COMMIT
"""

# The statements of version 0.1's programs.
LOCK_AND_READ: Final = """
SELECT moment, held, version, revision, document_deleted_at, entity_known, entity_deleted_at,
    link_id, role, created_at, deleted_at
FROM lock_and_read($1, $2, $3, $4, $5)
"""
WRITE_NEW: Final = f"SELECT write_changes({', '.join(f'${n}' for n in range(1, 17))})"
READY: Final = "SELECT max(version) FROM schema_version"


class Writers:
    """Link new entities over several connections, one transaction after another.

    Each statement that waits for a lock for more than `lock_timeout_ms` fails, and is counted.
    """

    def __init__(self, database: str, count: int, lock_timeout_ms: int) -> None:
        self._database = database
        self._count = count
        self._lock_timeout_ms = lock_timeout_ms
        self.written = 0
        self.longest_s = 0.0
        self.waited_too_long = 0

    @asynccontextmanager
    async def writing(self) -> AsyncIterator[Self]:
        """Write for as long as the context lasts; its figures are those of the last context."""
        self.written, self.longest_s = 0, 0.0
        stop = asyncio.Event()
        async with asyncio.TaskGroup() as group:
            for number in range(1, self._count + 1):
                group.create_task(self._write_until(stop, f"doc_{number}"))
            try:
                yield self
            finally:
                stop.set()

    async def _write_until(self, stop: asyncio.Event, document: str) -> None:
        settings = {"lock_timeout": f"{self._lock_timeout_ms}ms"}
        connection = await asyncpg.connect(self._database, server_settings=settings)
        linked = await connection.fetchval(
            "SELECT count(*) FROM document_links WHERE document_id = $1", document
        )
        while not stop.is_set():
            linked += 1
            began = time.monotonic()
            try:
                await self._link(connection, document, f"item_{linked}")
            except asyncpg.LockNotAvailableError:
                linked -= 1
                self.waited_too_long += 1
            self.longest_s = max(self.longest_s, time.monotonic() - began)
            self.written += 1
        await connection.close()

    async def _link(self, connection: asyncpg.Connection, document: str, entity: str) -> None:
        """Link as version 0.1 does, and ask as its /readyz does."""
        await connection.fetchval(READY)
        async with connection.transaction():
            ends = [WORKSPACE], [document], ["item"], [entity]
            (row,) = await connection.fetch(LOCK_AND_READ, *ends, True)  # noqa: FBT003 - positional in SQL
            version, revision = row["version"] + 1, row["revision"] + 1
            link = ends[0], ends[1], [uuid4()], ends[2], ends[3], [None]
            event = [uuid4()], ["document.linked"], [f"{WORKSPACE}/{document}"], [b"{}"], [None]
            counters = ends[0], ends[1], [version], [revision]
            await connection.fetchval(WRITE_NEW, row["moment"], *link, *counters, *event)
