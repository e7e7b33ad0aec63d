"""The subscriber of deploy/subscriber in this process: it rebuilds the active links from the topics."""

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from itertools import groupby
from typing import Self

import asyncpg

from deploy.subscriber.table import SCHEMA, Table
from tests.support.topic import topics

LINKS = "SELECT id::text FROM links"
BEGUN = "SELECT partition FROM positions WHERE snapshot IS NOT NULL"
KNOWN = "SELECT EXISTS (SELECT FROM documents WHERE key = $1)"


class TableSubscriber:
    """The subscriber with its tables.

    `table.snapshots` has the last snapshot that it has applied, by partition.
    """

    def __init__(self, connection: asyncpg.Connection, topic: str) -> None:
        self.table = Table(connection, topic)

    @classmethod
    @asynccontextmanager
    async def on(cls, database: str, topic: str) -> AsyncIterator[Self]:
        """Yield the subscriber of a live topic, with empty tables in an empty database."""
        connection = await asyncpg.connect(database)
        await connection.execute(SCHEMA)
        yield cls(connection, topic)
        await connection.close()

    async def read(self, kafka: str, topic: str) -> None:
        """Apply what a topic holds: the live topic from the position on, any other from its beginning."""
        await self.apply(await topics.read_all(kafka, topic))

    async def apply(self, records: Sequence[topics.Record]) -> None:
        """Apply records, ordered by partition."""
        for partition, found in groupby(records, lambda record: record.partition):
            position = await self.table.position(partition)
            due = [
                each for each in found if each.topic != self.table.topic or each.offset >= position
            ]
            if due:
                assert await self.table.apply(due)

    async def active(self) -> set[str]:
        """Return the ids of all active links."""
        return {row[0] for row in await self.table.db.fetch(LINKS)}

    async def begun(self) -> set[int]:
        """Return the partitions with a snapshot that has no end yet."""
        return {row[0] for row in await self.table.db.fetch(BEGUN)}

    async def knows(self, key: str) -> bool:
        """Whether the tables have a document."""
        return bool(await self.table.db.fetchval(KNOWN, key))
