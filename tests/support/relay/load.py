"""Writers that go on through every fault, and the reckoning afterwards."""

import asyncio
import contextlib
import random
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import asyncpg

from tests.support.relay import outbox
from tests.support.topic import topics
from tests.support.waiting import until

SCHEMA = Path("schema.sql").read_text()
DOCUMENTS = 20
ENTITIES = 10
LOST = (
    OSError, TimeoutError, asyncpg.PostgresError, asyncpg.InterfaceError,
    asyncpg.InternalClientError,
)  # fmt: skip
RECONNECT_S = 0.1


@asynccontextmanager
async def writers(database: Callable[[], str], count: int) -> AsyncIterator[None]:
    """Toggle random links over so many connections for as long as the context lasts.

    A writer whose database goes away comes back as soon as it can.
    """
    stop = asyncio.Event()
    tasks = [asyncio.create_task(_write(database, seed, stop)) for seed in range(count)]
    try:
        yield
    finally:
        stop.set()
        await asyncio.gather(*tasks)


async def _write(database: Callable[[], str], seed: int, stop: asyncio.Event) -> None:
    choice = random.Random(seed)
    while not stop.is_set():
        with contextlib.suppress(*LOST):
            connection = await asyncpg.connect(database(), timeout=5, command_timeout=10)
            try:
                while not stop.is_set():
                    await outbox.toggle_any(connection, choice, DOCUMENTS, ENTITIES)
            finally:
                connection.terminate()
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(stop.wait(), RECONNECT_S)


async def prepare(database: str) -> None:
    """Make what the writers link."""
    connection = await asyncpg.connect(database)
    await outbox.seed(connection, DOCUMENTS, ENTITIES)
    await connection.close()


async def _written(database: str) -> tuple[int, set[str]]:
    """Return how many events there are, and the active links."""
    connection = await asyncpg.connect(database)
    try:
        rows: int = await connection.fetchval("SELECT count(*) FROM outbox")
        return rows, await outbox.active_links(connection)
    finally:
        await connection.close()


async def reckon(database: str, kafka: str, topic: str, *, timeout_s: float = 60) -> None:
    """Hold the topic, once all is there, against the database: no loss, no duplicate, no gap."""
    rows, links = await _written(database)
    assert rows
    records = await topics.wait_for_count(kafka, topic, rows, timeout_s)
    active, faults = topics.fold(records)
    assert faults == []
    assert active == links
    assert len(records) == rows


async def reckon_repeated(database: str, kafka: str, topic: str, *, timeout_s: float = 60) -> None:
    """Hold the same against it where events may come again: a subscriber skips what it knows."""
    rows, links = await _written(database)

    async def settled() -> bool:
        records = await topics.read_all(kafka, topic)
        return len(topics.first_of_each(records)) >= rows

    await until(settled, timeout_s)
    active, faults = topics.fold(topics.first_of_each(await topics.read_all(kafka, topic)))
    assert faults == []
    assert active == links


RECKON = {"exactly-once": reckon, "at-least-once": reckon_repeated}
