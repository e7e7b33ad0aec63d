"""A problem that lasts is logged once for each class of error, and once when it is over."""

from collections import Counter
from collections.abc import AsyncIterator, Mapping

import asyncpg
import pytest

from deploy.local.postgres import PostgresServer
from service.store.database import Database
from service.store.keys import Key, find_keys
from service.store.migrations.apply import migrate
from tests.support.parts.shared import execute
from tests.support.service.api import Api, Service, new_key, seed
from tests.support.waiting import last, until

RETRIES = 10
QUIET_S = 0.5
LONGER_THAN_QUIET_S = 1.0
PROBLEMS = {
    "keys.refresh_failed": "keys.refresh_recovered",
    "idempotency.forget_failed": "idempotency.forget_recovered",
    "http.unavailable": "http.available",
    "expiry.failed": "expiry.recovered",
    "notify.failed": "notify.recovered",
}


@pytest.fixture(autouse=True)
def at_short_intervals(monkeypatch: pytest.MonkeyPatch) -> None:
    """Shorten the pauses of the retries, and the time after which a problem is over."""
    monkeypatch.setattr("service.edge.gate.keys.REFRESH_INTERVAL_S", 0.05)
    monkeypatch.setattr("service.store.writing.replies.INTERVAL_S", 0.05)
    monkeypatch.setattr("service.store.erasing.expiry.POLL_S", 0.05)
    monkeypatch.setattr("service.supervision.QUIET_S", QUIET_S)


@pytest.fixture
async def server() -> AsyncIterator[PostgresServer]:
    """Yield a Postgres with the schema that can be stopped."""
    with PostgresServer(settings={"fsync": "off"}) as server:
        async with Database(server.dsn(), pool_size=2) as database:
            await migrate(database)
        yield server


def lines(caplog: pytest.LogCaptureFixture) -> Counter[tuple[str, str]]:
    """Count the lines of the service by event and class of the error."""
    found = [vars(each) for each in caplog.records if each.name.startswith("service")]
    return Counter(
        (each["message"], str(each.get("error", "")).partition(":")[0]) for each in found
    )


async def test_an_unreachable_database_is_logged_once(
    server: PostgresServer, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Over many retries of each task, and many calls, no line comes twice until Postgres is back."""
    refreshes = 0

    async def counted(database: Database, digests: list[bytes]) -> Mapping[bytes, Key]:
        nonlocal refreshes
        refreshes += 1
        return await find_keys(database, digests)

    monkeypatch.setattr("service.edge.gate.keys.find_keys", counted)
    async with Service(server.dsn(), LINKS_KEEP_DELETED_DAYS="1") as service:
        api = await service.api(await new_key(server.dsn()))
        connection = await asyncpg.connect(server.dsn())
        await seed(connection, 1, 2)
        await connection.close()
        assert (await api.add("doc_1", "ship_1")).is_success
        server.stop()
        tried = refreshes + RETRIES

        async def tried_often() -> bool:
            assert (await api.add("doc_1", "ship_2")).status_code == 503
            return refreshes > tried

        await until(tried_often)
        during = lines(caplog)
        server.start()

        async def recovered() -> bool:
            await api.add("doc_1", "ship_2")
            failed = {event for event, _ in lines(caplog)} & PROBLEMS.keys()
            return {PROBLEMS[event] for event in failed} <= {event for event, _ in lines(caplog)}

        await until(recovered)
    events = {event for event, _ in during}
    assert {"keys.refresh_failed", "idempotency.forget_failed", "http.unavailable"} <= events
    assert {line: count for line, count in lines(caplog).items() if count > 1} == {}


async def test_writes_that_fail_between_reads_are_logged_once(
    api: Api, database: str, caplog: pytest.LogCaptureFixture
) -> None:
    """Reads that succeed do not end the problem of writes that fail."""
    await execute(database, "ALTER TABLE outbox RENAME TO gone")
    for _ in range(RETRIES):
        assert (await api.add("doc_1", "ship_1")).status_code == 503
        assert (await api.client.get("/v1/documents/doc_1/links")).is_success
    assert lines(caplog) == {("http.unavailable", "UndefinedTableError"): 1}


async def test_a_refresh_without_keys_ends_no_problem(
    api: Api, database: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """If no key is cached, nothing is read, so that nothing shows that keys can be read again."""
    await api.links("doc_1")
    await execute(database, "ALTER TABLE api_keys RENAME TO gone")

    async def failed() -> bool:
        return bool(lines(caplog))

    await until(failed)
    monkeypatch.setattr("service.edge.gate.keys.IDLE_S", 0.0)
    await last(LONGER_THAN_QUIET_S)
    assert set(lines(caplog)) == {("keys.refresh_failed", "UndefinedTableError")}
