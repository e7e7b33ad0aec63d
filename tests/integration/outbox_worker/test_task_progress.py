"""The rows that record an operator's commands."""

import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from uuid import uuid4

import asyncpg
import pytest

from outbox_worker.postgres.registration import RefusedError
from outbox_worker.postgres.task_progress import KEPT, Recorder, Task, newest, running
from tests.support.waiting import until

PARAMETERS = {"topic": "replay"}


@asynccontextmanager
async def recording(database: str, resumed: Task | None = None) -> AsyncIterator[Recorder]:
    """Record a replay of a hundred events."""
    async with Recorder(database, "replay", PARAMETERS, 100, resumed) as recorder:
        yield recorder


async def fail(database: str) -> None:
    """Record a replay that fails after 40 events."""
    async with recording(database) as recorder:
        recorder.events, recorder.position = 40, {"after": 7}
        raise ZeroDivisionError


async def recorded(connection: asyncpg.Connection) -> Task:
    """Return the newest run."""
    task = await newest(connection, "replay", PARAMETERS)
    assert task is not None
    return task


async def test_a_run_is_seen_while_it_lasts(database: str, connection: asyncpg.Connection) -> None:
    """Its events and its position are recorded meanwhile; after its end it does not run any more."""
    async with recording(database) as recorder:
        (begun,) = await running(connection)
        recorder.events, recorder.position = 40, {"after": 7}

        async def advanced() -> bool:
            return (await recorded(connection)).events == 40

        await until(advanced)
        assert (await recorded(connection)).position == {"after": 7}
    ended = await recorded(connection)
    assert (begun.id, begun.total, begun.finished_at) == (ended.id, 100, None)
    assert (ended.error, ended.finished_at is not None) == (None, True)
    assert await running(connection) == []


async def test_a_failed_run_goes_on_in_its_row(
    database: str, connection: asyncpg.Connection
) -> None:
    """The error of a run is recorded with its position; the resumed run begins there and clears it."""
    with pytest.raises(ZeroDivisionError):
        await fail(database)
    failed = await recorded(connection)
    assert (failed.events, failed.position, failed.finished_at) == (40, {"after": 7}, None)
    assert (failed.error, await running(connection)) == ("ZeroDivisionError", [])
    async with recording(database, failed) as recorder:
        assert (recorder.events, recorder.position) == (40, {"after": 7})
        assert [task.id for task in await running(connection)] == [failed.id]
        with pytest.raises(RefusedError, match="is still running"):
            async with recording(database, failed):
                pass
    ended = await recorded(connection)
    assert (ended.id, ended.error, ended.finished_at is not None) == (failed.id, None, True)


async def test_old_runs_are_forgotten(database: str, connection: asyncpg.Connection) -> None:
    """The newest rows are kept."""
    await connection.execute(
        "INSERT INTO outbox_tasks (kind, parameters) SELECT 'rebase', '{}' FROM generate_series(1, $1)",
        2 * KEPT,
    )
    async with recording(database):
        pass
    assert await connection.fetchval("SELECT count(*) FROM outbox_tasks") == KEPT


@pytest.mark.parametrize("missing", ["rights", "table", "database"])
async def test_a_run_goes_on_without_a_record(
    database: str,
    connection: asyncpg.Connection,
    missing: str,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Without the rights, the table or the database, one warning is logged, and the run ends as it does."""
    role = f"role_{uuid4().hex}"
    await connection.execute(f"CREATE ROLE {role} LOGIN")
    url = database.replace("postgres@", f"{role}@") if missing == "rights" else database
    if missing == "table":
        await connection.execute("DROP TABLE outbox_tasks")
    if missing == "database":
        url = "postgresql://nobody@127.0.0.1:1/none"
    with caplog.at_level(logging.WARNING, logger="outbox_worker"):
        async with recording(url) as recorder:
            recorder.events = 1
    assert [record.getMessage() for record in caplog.records] == ["task.unrecorded"]
    assert not recorder.recorded
    await connection.execute(f"DROP ROLE {role}")
