"""Retention clears only old rows that are published, and no session waits for it for long."""

import asyncio
import logging
from datetime import UTC, datetime
from uuid import uuid4

import asyncpg
import pytest

from outbox_worker.postgres.cursor import BEGINNING, Cursor, Snapshot
from outbox_worker.postgres.window import Window
from outbox_worker.relay.metrics import Metrics
from outbox_worker.relay.retention import DAY_S, SESSION, SLOTS, Retention, clear_unless_changed
from outbox_worker.settings import read
from tests.support.parts.shared import execute
from tests.support.waiting import BUSY_S, until

RETENTION_DAYS = 7
# A writer waits no longer than the job's lock_timeout of 0.1 s. Without it, a writer would wait for ever.
LONGEST_WRITE_S = 0.1 + BUSY_S
TODAY = 20_000 * DAY_S + DAY_S // 2

INSERT = """
INSERT INTO outbox (slot, event_id, event_type, key, payload, created_at)
VALUES ($1, $2, 'test.event', 'key', 'payload', $3)
"""


def slot_of(moment: float) -> int:
    """Return the slot of a day."""
    return int(moment // DAY_S) % SLOTS


async def write(connection: asyncpg.Connection, moment: float) -> None:
    """Write an event with this time."""
    await connection.execute(
        INSERT, slot_of(moment), uuid4(), datetime.fromtimestamp(moment, tz=UTC)
    )


async def publish_all(database: str) -> Cursor:
    """Return the cursor after all committed rows."""
    window = await Window.open(database, 1_000)
    cursor = (await window.read(BEGINNING)).cursor
    await window.close()
    return cursor


def retention(database: str, cursor: Cursor, now: float = TODAY) -> Retention:
    """Return the job at this time; all rows up to the cursor are published."""
    settings = read(
        {
            "DATABASE_URL": database,
            "KAFKA_BOOTSTRAP_SERVERS": "unused",
            "OUTBOX_RETENTION_DAYS": str(RETENTION_DAYS),
        }
    )
    job = Retention(settings, asyncio.Event(), Metrics(), lambda: now)
    job.follow(lambda: cursor)
    return job


async def left(connection: asyncpg.Connection) -> list[int]:
    """Return the slots that have rows."""
    rows = await connection.fetch("SELECT DISTINCT slot FROM outbox ORDER BY slot")
    return [row["slot"] for row in rows]


async def test_old_published_rows_are_cleared_and_the_others_stay(
    database: str, connection: asyncpg.Connection
) -> None:
    """Of ten days of events, those older than the retention are cleared."""
    for days in range(10):
        await write(connection, TODAY - days * DAY_S)
    cursor = await publish_all(database)
    cleared = await retention(database, cursor).run_once()
    assert sorted(cleared) == sorted(slot_of(TODAY - days * DAY_S) for days in (8, 9))
    kept = [slot_of(TODAY - days * DAY_S) for days in range(RETENTION_DAYS + 1)]
    assert await left(connection) == sorted(kept)


async def test_unpublished_rows_stay_at_any_age(
    database: str, connection: asyncpg.Connection
) -> None:
    """A worker that was stopped for twenty days clears no row before it has published it."""
    await write(connection, TODAY)
    await write(connection, TODAY + 4 * DAY_S)
    later = TODAY + 20 * DAY_S
    assert await retention(database, BEGINNING, later).run_once() == []
    cursor = await publish_all(database)
    assert len(await retention(database, cursor, later).run_once()) == 2


async def test_reused_slot_is_cleared_when_its_youngest_row_is_old(
    database: str, connection: asyncpg.Connection
) -> None:
    """A slot with rows of two days, sixteen days apart, is cleared when both are old."""
    await write(connection, TODAY)
    await write(connection, TODAY + SLOTS * DAY_S)
    cursor = await publish_all(database)
    soon = TODAY + (SLOTS + 1) * DAY_S
    assert await retention(database, cursor, soon).run_once() == []
    assert len(await retention(database, cursor, soon + RETENTION_DAYS * DAY_S).run_once()) == 1


async def test_row_of_a_transaction_that_is_still_open_is_not_lost(
    database: str, connection: asyncpg.Connection
) -> None:
    """While a writer locks the slot, the job gives up; after the commit, the row stays."""
    await write(connection, TODAY)
    cursor = await publish_all(database)
    later = TODAY + 9 * DAY_S
    writer = await asyncpg.connect(database)
    transaction = writer.transaction()
    await transaction.start()
    await write(writer, TODAY)
    assert await retention(database, cursor, later).run_once() == []
    await transaction.commit()
    assert await retention(database, cursor, later).run_once() == []
    assert await connection.fetchval("SELECT count(*) FROM outbox") == 2
    await writer.close()


async def test_row_committed_between_check_and_lock_is_not_lost(
    database: str, connection: asyncpg.Connection
) -> None:
    """A row that is committed while TRUNCATE waits for its lock stays."""
    await write(connection, TODAY)
    job = await asyncpg.connect(database, server_settings={**SESSION, "lock_timeout": "20s"})
    writer = await asyncpg.connect(database)
    transaction = writer.transaction()
    await transaction.start()
    await write(writer, TODAY)
    checked = Snapshot.parse(await job.fetchval("SELECT pg_current_snapshot()::text"))
    table = f"outbox_{slot_of(TODAY):02}"
    clearing = asyncio.create_task(clear_unless_changed(job, table, checked))
    await wait_for_waiter(connection)
    await transaction.commit()
    assert await clearing is False
    assert await connection.fetchval("SELECT count(*) FROM outbox") == 2
    await writer.close()
    await job.close()


async def wait_for_waiter(connection: asyncpg.Connection) -> None:
    """Return when a session of this database waits for a table's lock."""
    waiting = """
        SELECT EXISTS (
            SELECT FROM pg_locks WHERE NOT granted AND locktype = 'relation'
            AND database = (SELECT oid FROM pg_database WHERE datname = current_database())
        )
    """

    async def is_waiting() -> bool:
        return bool(await connection.fetchval(waiting))

    await until(is_waiting)


async def test_writers_do_not_wait_while_somebody_reads_the_whole_table(
    database: str, connection: asyncpg.Connection
) -> None:
    """While a reader locks the slot, the job gives up in time, and no session queues behind it."""
    await write(connection, TODAY)
    await write(connection, TODAY + DAY_S)
    cursor = await publish_all(database)
    reader = await asyncpg.connect(database)
    reading = reader.transaction(isolation="repeatable_read")
    await reading.start()
    await reader.fetch("SELECT * FROM outbox")
    job = asyncio.create_task(retention(database, cursor, TODAY + 20 * DAY_S).run_once())
    while not job.done():
        async with asyncio.timeout(LONGEST_WRITE_S):
            await write(connection, TODAY)
    assert await job == []
    await reading.rollback()
    await reader.close()


async def test_slot_that_stays_locked_is_logged_once(
    database: str, connection: asyncpg.Connection, caplog: pytest.LogCaptureFixture
) -> None:
    """The log has one line when the slot is locked, none at the next attempts, and one when it is cleared."""
    await write(connection, TODAY)
    job = retention(database, await publish_all(database), TODAY + 9 * DAY_S)
    with caplog.at_level(logging.INFO, logger="outbox_worker"):
        async with connection.transaction():
            await connection.execute("LOCK TABLE outbox IN ACCESS SHARE MODE")
            for _ in range(3):
                await job.attempt()
        await job.attempt()
    said = [record.getMessage() for record in caplog.records]
    assert said == ["retention.slot_held", "retention.slot_cleared"]


async def test_error_that_stays_is_logged_once(
    database: str, caplog: pytest.LogCaptureFixture
) -> None:
    """The log has one line for each class of error, until an attempt succeeds."""
    job = retention(database, BEGINNING)
    with caplog.at_level(logging.INFO, logger="outbox_worker"):
        await execute(database, "ALTER TABLE outbox_00 RENAME TO away")
        for _ in range(3):
            await job.attempt()
            await execute(database, "ALTER TABLE away RENAME TO outbox_00")
            await execute(database, "ALTER TABLE outbox RENAME COLUMN created_at TO away")
            await job.attempt()
            await execute(database, "ALTER TABLE outbox RENAME COLUMN away TO created_at")
            await execute(database, "ALTER TABLE outbox_00 RENAME TO away")
        await execute(database, "ALTER TABLE away RENAME TO outbox_00")
        await job.attempt()
        await execute(database, "ALTER TABLE outbox_00 RENAME TO away")
        await job.attempt()
    lines = [(record.getMessage(), getattr(record, "kind", None)) for record in caplog.records]
    assert lines == [
        ("retention.failed", "UndefinedTableError"),
        ("retention.failed", "UndefinedColumnError"),
        ("retention.recovered", None),
        ("retention.failed", "UndefinedTableError"),
    ]
