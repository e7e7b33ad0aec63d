"""A member of the subscriber's group, in this process, with tables of its own."""

from collections.abc import AsyncIterator
from uuid import UUID

import asyncpg
import pytest

from deploy.subscriber.table import SCHEMA, Table
from tests.support.topic.made import TOPIC, Made


class Reader:
    """A member of the group that has been given partition 0."""

    def __init__(self, connection: asyncpg.Connection) -> None:
        self.db = connection
        self.table = Table(connection, TOPIC)

    async def read(self, *records: Made) -> bool:
        """Apply records as one batch."""
        return await self.table.apply(records)

    async def links(self) -> set[int]:
        """Return the numbers of the active links."""
        rows: list[UUID] = [row[0] for row in await self.db.fetch("SELECT id FROM links")]
        return {each.int for each in rows}

    async def position(self) -> int:
        """Return the offset of the next record."""
        return await self.table.position(0)


@pytest.fixture
async def reader(empty_database: str) -> AsyncIterator[Reader]:
    """Yield a member with empty tables, at the beginning."""
    connection = await asyncpg.connect(empty_database)
    await connection.execute(SCHEMA)
    reader = Reader(connection)
    assert await reader.position() == 0
    yield reader
    await connection.close()
