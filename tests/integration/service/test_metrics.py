"""Each metric of the service shows what has happened."""

import asyncio
import hashlib
import time
from collections.abc import AsyncIterator
from typing import NamedTuple

import asyncpg
import pytest

from service.telemetry import METRICS
from tests.support.faults.commit import CommitProxy
from tests.support.service.api import Api, Service, new_key, seed
from tests.support.service.locks import locked
from tests.support.service.metrics import (
    Metrics,
    call_while_unreachable,
    present_keys,
    wait_in_vain,
    write_in_many_ways,
)

ELSEWHERE = {
    "links_calls_refused_total",
    "links_expired_rows_total",
    "links_expiry_finished_timestamp_seconds",
    "links_rate_limit_storage_away",
}
"""The metrics of overload, of the expiry and of Redis, which have tests of their own."""
LOCK_SCOPE = """
SELECT count(*)
FROM workspaces AS w, lock_scopes(ARRAY[w.id], ARRAY[$1::bytea], true)
WHERE w.name = 'test'
"""


class Served(NamedTuple):
    """A service behind a proxy that breaks COMMITs, a client of it, and its metrics."""

    api: Api
    metrics: Metrics
    proxy: CommitProxy


@pytest.fixture
async def served(
    database: str, connection: asyncpg.Connection, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[Served]:
    """Yield a service with a pool of one connection that refreshes its keys ten times a second."""
    monkeypatch.setattr("service.edge.gate.keys.REFRESH_INTERVAL_S", 0.1)
    monkeypatch.setattr("service.store.writing.witness.LOOK_UP_DEADLINE_S", 0.2)
    key = await new_key(database)
    await seed(connection, 20, 20)
    async with (
        CommitProxy(database) as proxy,
        Service(proxy.dsn, LINKS_POOL_SIZE="1", LINKS_METRICS_RATE_LIMITED_KEYS="true") as service,
    ):
        api = await service.api(key)
        yield Served(api, Metrics(api.client), proxy)


async def test_each_metric_moves(
    served: Served, database: str, connection: asyncpg.Connection
) -> None:
    """After calls of all kinds and faults of the database, each metric has been other than 0."""
    api, metrics, proxy = served
    began = time.time()
    await write_in_many_ways(api, connection)
    limited = await new_key(database, "test", rate_limit="1/day")
    end = await present_keys(api, database, limited)
    await metrics.reach(1, "links_keys_refreshed_total", outcome="valid")
    assert metrics.value("links_key_expiry_timestamp_seconds") == end.timestamp()
    limited_id = await connection.fetchval(
        "SELECT id FROM api_keys WHERE hash = sha256($1)", limited.encode()
    )
    assert metrics.value("links_rate_limited_calls_total", key=limited_id) == 1
    for name in ("links_replies_replayed_total", "links_unknown_keys_total"):
        assert metrics.value(name) == 1
    await connection.execute("UPDATE api_keys SET revoked_at = now() WHERE id = $1", limited_id)
    await metrics.reach(1, "links_keys_refreshed_total", outcome="revoked")
    await wait_in_vain(api, database, metrics)
    assert metrics.value("links_lock_timeouts_total") >= 2  # after 0.25 s, and after 2 s more
    proxy.break_next("command lost")
    assert (await api.add("doc_5", "ship_1")).status_code == 201
    proxy.break_next("command late")
    assert (await api.add("doc_6", "ship_1")).status_code == 503
    proxy.let_go.set()
    await call_while_unreachable(api, database, metrics)
    await wait_for_the_pool(served, database)
    for name in ("links_commits_retried_total", "links_commits_unknown_total"):
        assert metrics.value(name) == 1
    assert metrics.moved == METRICS.keys() - ELSEWHERE
    assert began < metrics.value("links_last_write_timestamp_seconds") < time.time()


async def wait_for_the_pool(served: Served, database: str) -> None:
    """Let one write wait for a lock with the only connection, and others for the connection."""
    api, metrics, _ = served
    async with locked(database, "doc_7", "doc_8") as session:
        names = [f"/v1/documents/doc_{number}" for number in (7, 8)]
        puts = [asyncio.create_task(api.client.put(each, json={})) for each in names]
        await metrics.reach(1, "links_pool_waiting", pool="writers")
        read = asyncio.create_task(api.client.get("/v1/documents/doc_9"))
        await metrics.reach(1, "links_pool_waiting", pool="all")
        await session.execute("ROLLBACK")
        answers = await asyncio.gather(*puts, read)
    assert {answer.status_code for answer in answers} == {200}


async def test_calls_and_steps_of_transactions_are_counted(served: Served, database: str) -> None:
    """Each call is in one joint transaction; one whose Idempotency-Key is in use is tried again alone."""
    api, metrics, _ = served
    await asyncio.gather(*(api.add(f"doc_{number}", "ship_1") for number in range(1, 11)))
    await metrics.read()
    for name in ("calls", "changes"):
        assert metrics.value(f"links_transaction_{name}_sum") == 10
    transactions = metrics.value("links_transaction_calls_count")
    assert metrics.value("links_write_queue_duration_seconds_count") == 10
    assert metrics.value("links_transaction_duration_seconds_count") == transactions
    steps = "links_round_trip_duration_seconds_count"
    several = transactions - metrics.value(steps, step="statement")  # a lone link is one statement
    for step in ("lock", "save", "commit"):
        assert metrics.value(steps, step=step) == several
    scope = hashlib.sha256(b"POST\0/v1/documents/doc_11/links\0k").digest()
    session = await asyncpg.connect(database)
    async with session.transaction():
        assert await session.fetchval(LOCK_SCOPE, scope) == 1
        call = asyncio.create_task(api.add("doc_11", "ship_1", {"Idempotency-Key": "k"}))
        await metrics.reach(1, "links_calls_retried_total", reason="key_in_flight")
    assert (await call).status_code == 201
    await session.close()
    assert metrics.value("links_calls_retried_total") == 1
