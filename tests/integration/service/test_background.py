"""Background tasks of the service survive errors and end with it."""

import asyncio
from contextlib import suppress

import asyncpg
import pytest

from service.edge.gate.rates import MemoryLimiter
from service.store.database import Database
from service.store.writing.replies import forget_expired, forget_expired_forever
from tests.support.parts.shared import execute
from tests.support.service.api import Api, Service
from tests.support.waiting import until

LINKS = "/v1/documents/doc_1/links"
KEY = {"Idempotency-Key": "old"}
AGE = "UPDATE idempotency_keys SET created_at = now() - interval '25 hours'"
COUNT = "SELECT count(*) FROM idempotency_keys"
CHECK = """
CREATE FUNCTION check_delete() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF {condition} THEN RAISE EXCEPTION 'refused by the test'; END IF;
    RETURN NULL;
END $$;
CREATE TRIGGER check_delete BEFORE DELETE ON idempotency_keys EXECUTE FUNCTION check_delete()
"""


@pytest.fixture(autouse=True)
def at_short_intervals(monkeypatch: pytest.MonkeyPatch) -> None:
    """Shorten the pauses of the tasks."""
    monkeypatch.setattr("service.store.writing.replies.INTERVAL_S", 0.05)
    monkeypatch.setattr("service.edge.gate.keys.REFRESH_INTERVAL_S", 0.05)


async def until_logged(event: str, caplog: pytest.LogCaptureFixture) -> None:
    """Return once this event was logged with a traceback."""

    async def found() -> bool:
        return any(each.message == event and each.exc_info for each in caplog.records)

    await until(found)


async def test_expired_replies_are_deleted_after_an_error(
    api: Api, database: str, connection: asyncpg.Connection, caplog: pytest.LogCaptureFixture
) -> None:
    """An error of Postgres is logged, and the deletion is retried until it succeeds."""
    await api.add("doc_1", "ship_1", KEY)
    await connection.execute(AGE)
    await connection.execute(CHECK.format(condition="true"))
    async with Database(database, pool_size=1) as pool:
        task = asyncio.create_task(forget_expired_forever(pool))
        await until_logged("idempotency.forget_failed", caplog)
        await connection.execute("DROP TRIGGER check_delete ON idempotency_keys")

        async def forgotten() -> bool:
            return bool(await connection.fetchval(COUNT) == 0)

        await until(forgotten)
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task


async def test_expired_replies_are_deleted_at_read_committed(
    api: Api, database: str, connection: asyncpg.Connection
) -> None:
    """A stricter default isolation does not make the deletion fail beside a renewed reply."""
    await api.add("doc_1", "ship_1", KEY)
    await connection.execute(AGE)
    condition = "current_setting('transaction_isolation') <> 'read committed'"
    await connection.execute(CHECK.format(condition=condition))
    name = database.rpartition("/")[2]
    strict = f"ALTER DATABASE {name} SET default_transaction_isolation = 'repeatable read'"
    await execute(database, strict)
    async with Database(database, pool_size=1) as pool:
        await forget_expired(pool)
    assert await connection.fetchval(COUNT) == 0


async def test_keys_are_read_again_after_any_error(
    api: Api, connection: asyncpg.Connection, caplog: pytest.LogCaptureFixture
) -> None:
    """After an unexpected error of the refresh of keys, a revocation still takes effect."""
    await api.links("doc_1")
    await connection.execute("ALTER TABLE api_keys RENAME COLUMN scopes TO scopes_once")
    await until_logged("keys.refresh_failed", caplog)
    await connection.execute("ALTER TABLE api_keys RENAME COLUMN scopes_once TO scopes")
    await connection.execute("UPDATE api_keys SET revoked_at = now()")

    async def refused() -> bool:
        return (await api.client.get(LINKS)).status_code == 401

    await until(refused)


async def test_the_limiter_is_closed_though_a_task_has_failed(
    database: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The service closes its limiter although a background task has failed."""
    closed, failing = [], asyncio.Event()

    class Limiter(MemoryLimiter):
        async def aclose(self) -> None:
            closed.append(self)

    async def fails(_: Database) -> None:
        failing.set()
        raise RuntimeError

    monkeypatch.setattr("service.app.make_limiter", lambda *_: Limiter())
    monkeypatch.setattr("service.app.forget_expired_forever", fails)
    async with Service(database):
        await failing.wait()
    assert len(closed) == 1
