"""The relay's lag, within a window, between windows and after a late transaction."""

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
    """While a window of late rows is published, its remaining rows and those after it count."""
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
    """Published rows do not count, although a transaction with lower positions commits later."""
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


async def test_an_old_measurement_is_not_shown(
    database: str, connection: asyncpg.Connection
) -> None:
    """The gauges show a measurement for ten seconds, and have no sample after that."""
    await outbox.insert_events(connection, LATE)
    stop, metrics, now = asyncio.Event(), Metrics(), [1_000.0]
    gauges = lag.Lag(database, stop, metrics, clock=lambda: now[0])

    async def from_the_beginning(_: asyncpg.Connection) -> Cursor:
        return BEGINNING

    async def known() -> bool:
        return gauges.known() is not None

    assert not await known()
    measuring = asyncio.create_task(gauges.run())
    gauges.begin(from_the_beginning)
    await until(known)
    stop.set()
    await measuring
    assert metrics.registry.get_sample_value("outbox_lag_events") == LATE
    now[0] += lag.KNOWN_FOR_S
    assert await known()
    now[0] += 1
    assert metrics.registry.get_sample_value("outbox_lag_events") is None
