"""Checkpoints: copies of the progress record in the database, which go back in time together with it."""

from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from typing import Self

import asyncpg
import msgspec

from outbox_worker.postgres.cursor import BEGINNING, Anchor, Cursor
from outbox_worker.postgres.progress import Progress
from outbox_worker.postgres.registration import ClusterIdentity, read_cluster_identity

NEWEST = """
SELECT cursor::text AS cursor
FROM outbox_checkpoints
WHERE relay = $1
ORDER BY id DESC
LIMIT 1
"""

EXISTS = """
SELECT EXISTS (
    SELECT FROM outbox_checkpoints
    WHERE relay = $1 AND cursor ->> 'checkpoint' = $2
)
"""

# $1 the position. Each slot is searched through the index of its primary key.
PAYLOAD = """
SELECT position, payload
FROM outbox
WHERE position = $1
"""

WRITE = """
INSERT INTO outbox_checkpoints (relay, system_identifier, database_oid, timeline, cursor)
VALUES ($1, $2, $3::bigint::oid, $4, $5::text::jsonb)
RETURNING id
"""

KEPT = 360
"""Checkpoints of a relay: an hour of work. Only the newest is read, the others are for an operator."""
PRUNE = """
DELETE FROM outbox_checkpoints
WHERE relay = $1 AND id < $2
"""

Session = Callable[[], AbstractAsyncContextManager[asyncpg.Connection]]
"""Lends a session to one task at a time."""


async def newest(connection: asyncpg.Connection, relay: str) -> Progress | None:
    """Return the relay's newest checkpoint, None if it has none."""
    text = await connection.fetchval(NEWEST, relay)
    return None if text is None else msgspec.json.decode(text, type=Progress)


async def newest_cursor(connection: asyncpg.Connection, relay: str) -> Cursor:
    """Return the newest checkpoint's cursor, the beginning if the relay has no checkpoint."""
    checkpoint = await newest(connection, relay)
    return BEGINNING if checkpoint is None else checkpoint.cursor


async def write(
    connection: asyncpg.Connection, relay: str, cluster: ClusterIdentity, progress: Progress
) -> int:
    """Add a checkpoint and return its id; the row is durable once its transaction is committed."""
    number: int = await connection.fetchval(
        WRITE,
        relay,
        cluster.system_identifier,
        cluster.database_oid,
        cluster.timeline,
        msgspec.json.encode(progress).decode(),
    )
    return number


class Checkpoints:
    """The checkpoints of one relay, read and written over the leader's session."""

    def __init__(self, session: Session, relay: str, cluster: ClusterIdentity) -> None:
        self._session = session
        self._relay = relay
        self.cluster = cluster

    @classmethod
    async def of(cls, session: Session, relay: str) -> Self:
        """Read which cluster the database is in now."""
        async with session() as connection:
            return cls(session, relay, await read_cluster_identity(connection))

    async def newest(self) -> Progress | None:
        """Return the newest checkpoint, None if there is none."""
        async with self._session() as connection:
            return await newest(connection, self._relay)

    async def exists(self, token: str) -> bool:
        """Whether the database has the checkpoint with this token."""
        async with self._session() as connection:
            return bool(await connection.fetchval(EXISTS, self._relay, token))

    async def has_row(self, anchor: Anchor) -> bool:
        """Whether the outbox has the row that a record names as its anchor."""
        async with self._session() as connection:
            rows = await connection.fetch(PAYLOAD, anchor.position)
        return anchor in map(Anchor.of, rows)

    async def write(self, progress: Progress) -> None:
        """Add a checkpoint and delete the oldest; the row is durable when this returns."""
        async with self._session() as connection:
            number = await write(connection, self._relay, self.cluster, progress)
            await connection.execute(PRUNE, self._relay, number - KEPT)
