"""Load on the outbox: writers that toggle random links and reconnect after each fault."""

import asyncio
import contextlib
import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import asyncpg

from tests.support.relay import links

DOCUMENTS = 20
ENTITIES = 10
LOST = (
    OSError, TimeoutError, asyncpg.PostgresError, asyncpg.InterfaceError,
    asyncpg.InternalClientError,
)  # fmt: skip
RECONNECT_S = 0.1


async def prepare(database: str) -> None:
    """Make the documents and entities that the writers link."""
    connection = await asyncpg.connect(database)
    await links.seed(connection, DOCUMENTS, ENTITIES)
    await connection.close()


@asynccontextmanager
async def writing(database: str, count: int = 2) -> AsyncIterator[None]:
    """Toggle random links over `count` connections until the context ends."""
    stop = asyncio.Event()
    tasks = [asyncio.create_task(_write(database, seed, stop)) for seed in range(count)]
    try:
        yield
    finally:
        stop.set()
        await asyncio.gather(*tasks)


async def _write(database: str, seed: int, stop: asyncio.Event) -> None:
    choice = random.Random(seed)
    while not stop.is_set():
        with contextlib.suppress(*LOST):
            connection = await asyncpg.connect(database, timeout=5, command_timeout=10)
            try:
                while not stop.is_set():
                    await links.toggle_any(connection, choice, DOCUMENTS, ENTITIES)
            finally:
                connection.terminate()
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(stop.wait(), RECONNECT_S)
