"""The leader reads the pause over its session, confirms it there, and works with older schemas and grants."""

import logging
from uuid import uuid4

import asyncpg
import pytest

from outbox_worker.postgres import pause
from outbox_worker.postgres.sessions import LEADER, application_name
from outbox_worker.relay.health import Health
from outbox_worker.relay.leader import LeaderLock
from outbox_worker.relay.metrics import Metrics
from outbox_worker.relay.pausing import CONFIRMED, Pausing

GAUGE = "outbox_paused_timestamp_seconds"


async def test_a_pause_is_shown_and_logged_once(
    connection: asyncpg.Connection, caplog: pytest.LogCaptureFixture
) -> None:
    """The first of two pauses counts; its begin and its end are logged, even if it was forgotten."""
    health, metrics = Health(), Metrics()
    pausing = Pausing(health, metrics)
    value = metrics.registry.get_sample_value
    assert value(GAUGE) is None
    with caplog.at_level(logging.INFO, logger="outbox_worker"):
        await pausing.begin(connection)
        assert (pausing.pause, value(GAUGE)) == (None, 0)
        await pause.begin(connection, "operator@here")
        await pause.begin(connection, "second@there")
        await pausing.refresh(connection)
        paused = await pause.read(connection)
        assert paused is not None
        assert paused.by == "operator@here"
        assert health.report()["paused"] == {"since": paused.since, "by": paused.by}
        assert (pausing.pause, value(GAUGE)) == (paused, paused.since)
        pausing.forget()
        assert (value(GAUGE), health.report()["paused"]) == (None, None)
        await pausing.begin(connection)
        assert await pause.end(connection) == paused
        await pausing.refresh(connection)
        assert (pausing.pause, value(GAUGE)) == (None, 0)
    assert [record.getMessage() for record in caplog.records] == ["relay.paused", "relay.resumed"]


async def test_a_pause_is_confirmed_while_no_page_is_in_flight(
    database: str, connection: asyncpg.Connection
) -> None:
    """The leader's session has another name while a term waits, until the pause ends."""
    pausing = Pausing(Health(), Metrics())
    lock = await LeaderLock.open(database)
    await pause.begin(connection, "operator@here")
    async with lock.session() as session:

        async def name_after_refresh() -> str:
            await pausing.refresh(session)
            return str(await session.fetchval("SHOW application_name"))

        await pausing.begin(session)
        assert await name_after_refresh() == application_name(LEADER)
        pausing.holding = True
        assert await name_after_refresh() == CONFIRMED
        await pause.end(connection)
        assert await name_after_refresh() == application_name(LEADER)
    await lock.close()


@pytest.mark.parametrize("missing", ["table", "right"])
async def test_older_schemas_and_grants_are_no_pause(
    database: str, connection: asyncpg.Connection, missing: str, caplog: pytest.LogCaptureFixture
) -> None:
    """Without the table or the right, the worker warns once; with them, it reads the pause."""
    role = f"relay_{uuid4().hex}"
    await connection.execute(f"CREATE ROLE {role} LOGIN")
    if missing == "table":
        await connection.execute("ALTER TABLE outbox_pause RENAME TO later")
        await connection.execute(f"GRANT SELECT ON later TO {role}")
    pausing = Pausing(Health(), Metrics())
    lock = await LeaderLock.open(database.replace("postgres@", f"{role}@"))
    async with lock.session() as session:
        with caplog.at_level(logging.WARNING, logger="outbox_worker"):
            await pausing.begin(session)
            await pausing.refresh(session)
        assert pausing.pause is None
        if missing == "table":
            await connection.execute("ALTER TABLE later RENAME TO outbox_pause")
        else:
            await connection.execute(f"GRANT SELECT ON outbox_pause TO {role}")
        await pause.begin(connection, "operator@here")
        await pausing.refresh(session)
        assert pausing.pause is not None
    assert [record.getMessage() for record in caplog.records] == ["relay.pause_unreadable"]
    await lock.close()
    await connection.execute(f"DROP OWNED BY {role}; DROP ROLE {role}")
