"""The leader's books: what it has published, and the copies of that in the database.

A copy, the checkpoint, is written every 10 s of work.
"""

import secrets
import time
from collections.abc import Callable, Mapping
from contextlib import AbstractAsyncContextManager
from typing import Self

import asyncpg
import msgspec

from outbox_worker.kafka.progress import Progress, Start
from outbox_worker.postgres.registration import Place, read_place
from outbox_worker.postgres.window import BEGINNING, Anchor, Cursor, Page

NEWEST_CHECKPOINT = """
SELECT system_identifier, database_oid::bigint AS database_oid, cursor::text AS cursor
FROM outbox_checkpoints
WHERE relay = $1
ORDER BY id DESC
LIMIT 1
"""

CHECKPOINT_EXISTS = """
SELECT EXISTS (
    SELECT FROM outbox_checkpoints
    WHERE relay = $1 AND cursor ->> 'checkpoint' = $2
)
"""

# $1 the position: with the index of the primary key, in each slot.
PAYLOAD = """
SELECT position, payload
FROM outbox
WHERE position = $1
"""

WRITE_CHECKPOINT = """
INSERT INTO outbox_checkpoints (relay, system_identifier, database_oid, timeline, cursor)
VALUES ($1, $2, $3::bigint::oid, $4, $5::text::jsonb)
RETURNING id
"""

# The newest is the only one that is ever read; a few more tell an operator the history.
CHECKPOINTS_KEPT = 360
PRUNE_CHECKPOINTS = """
DELETE FROM outbox_checkpoints
WHERE relay = $1 AND id < $2
"""

Session = Callable[[], AbstractAsyncContextManager[asyncpg.Connection]]


async def newest_checkpoint(connection: asyncpg.Connection, relay: str) -> Progress | None:
    """Return the relay's newest checkpoint, None if there is none."""
    row = await connection.fetchrow(NEWEST_CHECKPOINT, relay)
    return None if row is None else msgspec.json.decode(row["cursor"], type=Progress)


async def newest_cursor(connection: asyncpg.Connection, relay: str) -> Cursor:
    """Return the newest checkpoint's cursor; the beginning if there is none."""
    checkpoint = await newest_checkpoint(connection, relay)
    return BEGINNING if checkpoint is None else checkpoint.cursor


class Checkpoints:
    """The copies in the database, over the leader's session."""

    def __init__(self, session: Session, relay: str, place: Place) -> None:
        self._session = session
        self._relay = relay
        self.place = place

    @classmethod
    async def of(cls, session: Session, relay: str) -> Self:
        """Look up where the database lives now."""
        async with session() as connection:
            return cls(session, relay, await read_place(connection))

    async def newest(self) -> Progress | None:
        """Return the newest checkpoint."""
        async with self._session() as connection:
            return await newest_checkpoint(connection, self._relay)

    async def known(self, token: str) -> bool:
        """Whether the database holds the checkpoint of this token."""
        async with self._session() as connection:
            return bool(await connection.fetchval(CHECKPOINT_EXISTS, self._relay, token))

    async def holds(self, anchor: Anchor) -> bool:
        """Whether the database holds the row that a record names."""
        async with self._session() as connection:
            rows = await connection.fetch(PAYLOAD, anchor.position)
        return anchor in map(Anchor.of, rows)

    async def write(self, progress: Progress) -> None:
        """Add a checkpoint; durable when this returns."""
        place = self.place
        text = msgspec.json.encode(progress).decode()
        async with self._session() as connection:
            number = await connection.fetchval(
                WRITE_CHECKPOINT,
                self._relay,
                place.system_identifier,
                place.database_oid,
                place.timeline,
                text,
            )
            await connection.execute(PRUNE_CHECKPOINTS, self._relay, number - CHECKPOINTS_KEPT)


class Ledger:
    """What one leader has published, and the records that say so."""

    def __init__(self, checkpoints: Checkpoints, start: Start) -> None:
        self._checkpoints = checkpoints
        self._offsets = dict(start.offsets)
        self._topic_id = start.topic_id
        self._events = start.events
        self._checkpoint = ""
        self.unchecked = 0  # events since the last checkpoint
        self._anchor = start.anchor
        self.cursor = start.cursor

    def record(self, page: Page) -> Progress:
        """Return the record that goes out with a page."""
        cursor = page.cursor
        place = self._checkpoints.place
        return Progress(
            system_identifier=place.system_identifier,
            database_oid=place.database_oid,
            timeline=place.timeline,
            checkpoint=self._checkpoint,
            s0=str(cursor.s0),
            s1=None if cursor.s1 is None else str(cursor.s1),
            after=cursor.after,
            offsets=self._offsets,
            events=self._events + len(page.rows),
            anchor=page.anchor or self._anchor,
            at=time.time(),
            topic_id=self._topic_id,
        )

    def published(self, page: Page, offsets: Mapping[int, int]) -> None:
        """Take note of a page that is committed, with the highest offset of each partition."""
        self.passed(page)
        self._events += len(page.rows)
        self.unchecked += len(page.rows)
        self._offsets.update(offsets)

    def passed(self, page: Page) -> None:
        """Go on to the cursor after a page."""
        self.cursor = page.cursor
        self._anchor = page.anchor or self._anchor

    async def checkpoint(self) -> None:
        """Write the cursor to the database; later records name this checkpoint."""
        token = secrets.token_hex(8)
        record = self.record(Page((), self.cursor))
        await self._checkpoints.write(msgspec.structs.replace(record, checkpoint=token))
        self._checkpoint = token
        self.unchecked = 0
