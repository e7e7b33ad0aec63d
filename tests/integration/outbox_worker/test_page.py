"""The worker's page while one of its parts fails in a way that nobody expected."""

import asyncio
import logging

import asyncpg
import pytest

from outbox_worker.operator.state import Status
from outbox_worker.page.observer import Observer
from outbox_worker.relay.health import Health
from outbox_worker.relay.metrics import Metrics
from outbox_worker.relay.process import Relay
from outbox_worker.settings import read
from tests.support.waiting import until

# Python has no such year: asyncpg raises OverflowError, which is no error of Postgres.
BEYOND_PYTHON = """
INSERT INTO outbox_tasks (kind, parameters, started_at, updated_at)
VALUES ('replay', '{}', '100000-01-01', now() + interval '1 hour')
"""


async def test_an_unexpected_error_stops_neither_the_other_parts_nor_its_own(
    database: str,
    connection: asyncpg.Connection,
    kafka: str,
    topic: str,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """While a time in the database cannot be read, the page shows this and the topic; then it shows both."""
    settings = read(
        {"DATABASE_URL": database, "KAFKA_BOOTSTRAP_SERVERS": kafka, "OUTBOX_TOPIC": topic}
    )
    health, metrics = Health(), Metrics()
    observer = Observer(
        settings, Relay(settings, asyncio.Event(), health, metrics), health, metrics
    )
    await connection.execute(BEYOND_PYTHON)

    async def shown() -> Status:
        await observer.document()
        return observer.status()

    async def has_topic() -> bool:
        return bool((await shown()).topic and caplog.records)

    async def with_ring() -> Status | None:
        status = await shown()
        return status if status.slots else None

    async with observer.observing():
        await until(has_topic)
        assert (await shown()).problems["postgres"].startswith("OverflowError: ")
        await connection.execute("DELETE FROM outbox_tasks")
        status = await until(with_ring)
        assert status is not None
        assert status.problems == {}
    errors = [each for each in caplog.records if each.levelno >= logging.ERROR]
    assert [each.getMessage() for each in errors] == ["page.failed"]
    assert errors[0].exc_info is not None
    assert errors[0].exc_info[0] is OverflowError
