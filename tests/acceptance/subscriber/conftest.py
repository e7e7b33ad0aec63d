"""A database and a topic, and the subscriber's own database."""

from collections.abc import AsyncIterator
from pathlib import Path
from typing import NamedTuple

import asyncpg
import pytest

from tests.support.relay.worker import Worker
from tests.support.topic.table import Member

EVENTS = "SELECT count(*) FROM outbox"


class Stage(NamedTuple):
    """Where a subscriber runs."""

    database: str
    connection: asyncpg.Connection
    """To the service's database."""
    own_database: str
    """Empty before the subscriber's first start."""
    table: asyncpg.Connection
    """To the subscriber's database."""
    kafka: str
    topic: str
    logs: Path

    def worker(self, partitions: int) -> Worker:
        """Return a worker that is not started yet."""
        return Worker(self.database, self.kafka, self.topic, OUTBOX_PARTITIONS=str(partitions))

    def member(self, instance: str | None = None, topic: str | None = None) -> Member:
        """Return a subscriber that is not started yet. By default it reads the worker's topic."""
        return Member(self.own_database, self.kafka, topic or self.topic, self.logs, instance)

    async def events(self) -> int:
        """Return the number of events in the outbox."""
        count: int = await self.connection.fetchval(EVENTS)
        return count


@pytest.fixture
async def table(empty_database: str) -> AsyncIterator[asyncpg.Connection]:
    """Yield a connection to the subscriber's database."""
    connection = await asyncpg.connect(empty_database)
    yield connection
    await connection.close()


@pytest.fixture
def stage(
    request: pytest.FixtureRequest, connection: asyncpg.Connection, table: asyncpg.Connection
) -> Stage:
    """Return a stage that no other test uses."""
    database, own, kafka, topic, logs = map(
        request.getfixturevalue, ("database", "empty_database", "kafka", "topic", "tmp_path")
    )
    return Stage(database, connection, own, table, kafka, topic, logs)
