"""How far behind the relay is: counted like an independent count, also within a window."""

import asyncio

import asyncpg

from outbox_worker.postgres.cursor import BEGINNING, Cursor
from outbox_worker.postgres.window import Window
from outbox_worker.relay import lag
from outbox_worker.relay.metrics import Metrics
from tests.support.relay import outbox
from tests.support.waiting import until

LATE, LATER = 25, 7
BATCH = 10


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


async def test_what_was_published_since_a_late_row_is_not_due(
    database: str, connection: asyncpg.Connection
) -> None:
    """A transaction that commits late has lower positions than events that are out already."""
    other = await asyncpg.connect(database)
    window = await Window.open(database, BATCH)
    open_transaction = connection.transaction()
    await open_transaction.start()
    await outbox.insert_events(connection, LATE)
    await outbox.insert_events(other, 2 * LATE)
    page = await window.read(BEGINNING)
    while page.rows:
        page = await window.read(page.cursor)
    await open_transaction.commit()
    await outbox.insert_events(other, LATER)
    behind = await lag.due(other, page.cursor)
    assert (page.cursor.s1, behind.events) == (None, LATE + LATER)
    await window.close()
    await other.close()


async def test_an_old_look_is_not_shown(database: str, connection: asyncpg.Connection) -> None:
    """The last look counts for ten seconds; then nothing is known, until the next one."""
    await outbox.insert_events(connection, LATE)
    stop, metrics, now = asyncio.Event(), Metrics(), [1_000.0]
    gauges = lag.Lag(database, stop, metrics, clock=lambda: now[0])

    async def from_the_beginning(_: asyncpg.Connection) -> Cursor:
        return BEGINNING

    async def known() -> bool:
        return gauges.known() is not None

    assert not await known()
    looking = asyncio.create_task(gauges.run())
    gauges.begin(from_the_beginning)
    await until(known)
    stop.set()
    await looking
    assert metrics.registry.get_sample_value("outbox_lag_events") == LATE
    now[0] += lag.KNOWN_FOR_S
    assert await known()
    now[0] += 1
    assert metrics.registry.get_sample_value("outbox_lag_events") is None
