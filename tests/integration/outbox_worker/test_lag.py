"""The relay's lag, within a window, between windows and after a late transaction."""

import asyncio

import asyncpg

from outbox_worker.postgres.cursor import BEGINNING, Cursor
from outbox_worker.postgres.window import Window
from outbox_worker.relay import lag, ring
from outbox_worker.relay.leader import LeaderLock
from outbox_worker.relay.metrics import Metrics
from tests.support.relay import outbox
from tests.support.waiting import until

LATE, LATER = 25, 7
BATCH = 10
EVENTS_OF_OLD = """
INSERT INTO outbox (event_id, event_type, key, payload, created_at, slot)
SELECT gen_random_uuid(), 'test.event', 'key', 'old', now() - interval '3 days',
    (extract(EPOCH FROM now())::bigint / 86400 - 3) % 16
FROM generate_series(1, $1::int)
"""
# A replay that has done a quarter, a snapshot without a known end, and a rebase that has ended.
TASKS = """
INSERT INTO outbox_tasks (kind, parameters, events, total, finished_at)
VALUES ('replay', '{}', 5, 20, NULL), ('snapshot', '{}', 7, NULL, NULL), ('rebase', '{}', 3, 3, now())
"""


async def from_the_beginning(_: asyncpg.Connection) -> Cursor:
    """Return the cursor of a relay that has published nothing."""
    return BEGINNING


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


async def test_standbys_and_the_ring_are_measured_with_the_lag(
    database: str, connection: asyncpg.Connection
) -> None:
    """Each other session that polls the lock is a standby; days are unpublished from the oldest event on."""
    await connection.execute(EVENTS_OF_OLD, LATE)
    await outbox.insert_events(connection, LATE)
    await connection.execute(TASKS)
    stop, metrics = asyncio.Event(), Metrics()
    gauges = lag.Lag(database, stop, metrics)
    locks = [await LeaderLock.open(database) for _ in range(3)]
    async with locks[0].session() as session:
        backend = await session.fetchval("SELECT pg_backend_pid()")

    async def measured() -> bool:
        return gauges.known() is not None

    measuring = asyncio.create_task(gauges.run())
    gauges.begin(from_the_beginning, backend)
    await until(measured)
    value = metrics.registry.get_sample_value
    assert value("outbox_standbys") == 2
    days = {state: value("outbox_ring_days", {"state": state}) for state in ring.STATES}
    assert days == {"empty": 14, "published": 0, "unpublished": 2, "clearing": 0}
    sizes = "SELECT sum(pg_total_relation_size(relid)) FROM pg_partition_tree('outbox')"
    assert value("outbox_ring_bytes") == await connection.fetchval(sizes)
    assert value("outbox_task_progress_ratio", {"task": "replay"}) == 0.25
    assert value("outbox_task_progress_ratio", {"task": "snapshot"}) is None
    assert value("outbox_task_events", {"task": "snapshot"}) == 7
    assert value("outbox_task_events", {"task": "rebase"}) is None
    stop.set()
    await measuring
    for lock in locks:
        await lock.close()


async def test_days_before_the_oldest_unpublished_event_are_published(
    connection: asyncpg.Connection,
) -> None:
    """Without an unpublished event each day with rows is published, unless it is being cleared."""
    await connection.execute(EVENTS_OF_OLD, LATE)
    await outbox.insert_events(connection, LATE)
    old = await connection.fetchval("SELECT slot FROM outbox ORDER BY created_at LIMIT 1")
    for oldest_s, clearing, states in (
        (0.0, None, {"published": 1, "unpublished": 1}),
        (None, None, {"published": 2}),
        (0.0, old, {"clearing": 1, "unpublished": 1}),
    ):
        days = await ring.read(connection, oldest_s=oldest_s, clearing=clearing)
        found = ring.count(days)
        assert {state: number for state, number in found.items() if number} == {
            "empty": 14
        } | states


async def test_an_old_measurement_is_not_shown(
    database: str, connection: asyncpg.Connection
) -> None:
    """The gauges show a measurement for ten seconds, and have no sample after that."""
    await outbox.insert_events(connection, LATE)
    stop, metrics, now = asyncio.Event(), Metrics(), [1_000.0]
    gauges = lag.Lag(database, stop, metrics, clock=lambda: now[0])

    async def known() -> bool:
        return gauges.known() is not None

    assert not await known()
    measuring = asyncio.create_task(gauges.run())
    gauges.begin(from_the_beginning, leader=0)
    await until(known)
    stop.set()
    await measuring
    assert metrics.registry.get_sample_value("outbox_lag_events") == LATE
    now[0] += lag.KNOWN_FOR_S
    assert await known()
    now[0] += 1
    assert metrics.registry.get_sample_value("outbox_lag_events") is None
