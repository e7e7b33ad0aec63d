"""How far behind the relay is: counted like an independent count, also within a window."""

from collections.abc import AsyncIterator

import asyncpg
import pytest

from outbox_worker import lag
from outbox_worker.window import BEGINNING, Window
from tests import outbox

LATE, LATER = 25, 7
BATCH = 10


@pytest.fixture
async def connection(database: str) -> AsyncIterator[asyncpg.Connection]:
    """Yield a writer's connection."""
    connection = await asyncpg.connect(database)
    yield connection
    await connection.close()


async def test_late_rows_and_those_beyond_the_window_are_due(
    database: str, connection: asyncpg.Connection
) -> None:
    """While a window of late rows only is published, all that is left of it and after it counts."""
    other = await asyncpg.connect(database)
    window = await Window.open(database, BATCH)
    open_transaction = connection.transaction()
    await open_transaction.start()
    await outbox.insert_events(connection, LATE)
    await outbox.insert_event(other, "key", "0")
    page = await window.read(BEGINNING)
    await open_transaction.commit()
    page = await window.read(page.cursor)
    assert len(page.rows) == BATCH
    await outbox.insert_events(other, LATER)
    behind = await lag.due(other, page.cursor)
    assert behind.events == LATE - BATCH + LATER
    assert behind.seconds > 0
    await window.close()
    await other.close()
