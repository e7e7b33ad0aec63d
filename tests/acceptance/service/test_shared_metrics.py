"""The metrics of two worker processes are shown as one, also after one of them has ended."""

import os
import signal
import time
from collections.abc import AsyncIterator
from pathlib import Path

import asyncpg
import httpx
import pytest

from deploy.local import programs
from deploy.local.programs import Program
from tests.acceptance.service.test_service_workers import served
from tests.support.service.api import Api, new_key, seed
from tests.support.service.metrics import (
    Metrics,
    call_while_unreachable,
    present_expiring_key,
    present_keys,
    unreachable,
    wait_in_vain,
    write_in_many_ways,
)
from tests.support.waiting import eventually


@pytest.fixture
async def service(
    database: str, connection: asyncpg.Connection, tmp_path: Path
) -> AsyncIterator[Program]:
    """Yield a service with two workers, and documents."""
    await new_key(database)
    await seed(connection, 20, 20)
    with programs.service(database, tmp_path, LINKS_WORKERS="2") as service:
        yield service


def client_of(service: Program, key: str, idle_connections: int) -> httpx.AsyncClient:
    """Return a client. Without an idle connection, each call makes a connection to any of the workers."""
    limits = httpx.Limits(max_keepalive_connections=idle_connections)
    headers = {"X-API-KEY": key}
    return httpx.AsyncClient(base_url=service.url, headers=headers, limits=limits, timeout=30)


async def test_two_processes_have_common_metrics(
    service: Program, database: str, connection: asyncpg.Connection
) -> None:
    """Whichever process is asked, the values are those of both together."""
    limited = await new_key(database, rate_limit="1/day")
    async with client_of(service, await new_key(database), 0) as client:
        api, metrics = Api(client, ""), Metrics(client)
        await write_in_many_ways(api, connection)
        end = await present_keys(api, database, limited)
        for name, value in (
            ("links_replies_replayed_total", 1),
            ("links_unknown_keys_total", 1),
            ("links_rate_limited_calls_total", 1),
            ("links_transaction_calls_sum", 6),  # of 5 calls, and of one that is tried again
            ("links_write_queue_duration_seconds_count", 6),
            ("links_key_expiry_timestamp_seconds", end.timestamp()),
        ):
            await metrics.reach(value, name)
            assert metrics.value(name) == value
        assert metrics.value("links_calls_retried_total", reason="rows_missing") == 1
        assert abs(time.time() - metrics.value("links_last_write_timestamp_seconds")) < 60
        await wait_in_vain(api, database, metrics)
        await metrics.reach(2, "links_lock_timeouts_total")
        await call_while_unreachable(api, database, metrics)


async def test_only_counts_of_a_killed_process_remain(service: Program, database: str) -> None:
    """The gauges of a killed process disappear; its counts, and the time of its last write, remain."""
    key = await new_key(database)
    async with client_of(service, key, 1) as pinned, client_of(service, key, 0) as any_worker:
        api, metrics = Api(pinned, ""), Metrics(any_worker)
        assert (await api.add("doc_1", "ship_1")).status_code == 201
        end = await present_expiring_key(api, database)
        eventually(lambda: len(served(service)) == 1)
        (worker,) = served(service)
        async with unreachable(database):
            assert (await api.add("doc_1", "ship_2")).status_code == 503
            await metrics.reach(1, "links_database_unreachable")
            await metrics.reach(end.timestamp(), "links_key_expiry_timestamp_seconds")
            written_at = metrics.value("links_last_write_timestamp_seconds")
            calls = metrics.value("links_transaction_calls_sum")
            os.kill(worker, signal.SIGKILL)
            await metrics.fall_to(0, "links_database_unreachable")
            await metrics.fall_to(0, "links_key_expiry_timestamp_seconds")
        assert metrics.value("links_last_write_timestamp_seconds") == written_at > 0
        assert metrics.value("links_transaction_calls_sum") >= calls > 0
