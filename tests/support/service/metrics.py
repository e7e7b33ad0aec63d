"""The metrics of a service, read as Prometheus reads them, and calls that move them."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from urllib.parse import urlsplit

import asyncpg
import httpx
from prometheus_client.parser import text_string_to_metric_families

from service.store.database import Database
from service.store.keys import create_key
from tests.support.service.api import BOTH_SCOPES, Api
from tests.support.service.locks import locked
from tests.support.waiting import until

LINKS = "/v1/documents/doc_2/links"
UNKNOWN_KEY = f"wbk_{'x' * 52}"
END_SESSIONS = """
SELECT count(pg_terminate_backend(pid))
FROM pg_stat_activity
WHERE datname = $1 AND application_name = 'document-links'
"""


class Metrics:
    """The last values of a service's metrics."""

    def __init__(self, client: httpx.AsyncClient) -> None:
        self._client = client
        self._samples: dict[tuple[str, frozenset[tuple[str, str]]], float] = {}
        self.moved: set[str] = set()
        """The metrics that have had a value other than 0."""

    async def read(self) -> None:
        """Read all values."""
        text = (await self._client.get("/metrics")).text
        self._samples.clear()
        for family in text_string_to_metric_families(text):
            for sample in family.samples:
                self._samples[sample.name, frozenset(sample.labels.items())] = sample.value
                if sample.value and not sample.name.endswith("_created"):
                    suffix = "_total" if family.type == "counter" else ""
                    self.moved.add(family.name + suffix)

    def value(self, name: str, **labels: str) -> float:
        """Return the sum of the samples that have these labels; 0 if there is none."""
        return sum(
            value
            for (each, given), value in self._samples.items()
            if each == name and labels.items() <= set(given)
        )

    async def reach(self, least: float, name: str, **labels: str) -> None:
        """Read until a metric has at least this value."""

        async def reached() -> bool:
            await self.read()
            return self.value(name, **labels) >= least

        await until(reached)

    async def fall_to(self, value: float, name: str, **labels: str) -> None:
        """Read until a metric has at most this value."""

        async def fallen() -> bool:
            await self.read()
            return self.value(name, **labels) <= value

        await until(fallen)


async def write_in_many_ways(api: Api, connection: asyncpg.Connection) -> None:
    """Write to a new document and to one with many links; repeat a call; write nothing."""
    key = {"Idempotency-Key": "k"}
    answers = [await api.add("doc_2", "ship_1", key) for _ in range(2)]
    assert [answer.headers.get("idempotent-replayed") for answer in answers] == [None, "true"]
    assert (await api.client.put("/v1/documents/new", json={})).status_code == 201
    await connection.execute("UPDATE documents SET version = 5000 WHERE id = 'doc_3'")
    assert (await api.add("doc_3", "ship_1")).status_code == 201
    assert (await api.add("doc_none", "ship_1")).status_code == 404


async def present_keys(api: Api, database: str, limited: str) -> datetime:
    """Present an unknown key, one until it is used up, and one that expires; return when it does."""
    unknown = await api.client.get(LINKS, headers={"X-API-KEY": UNKNOWN_KEY})
    assert unknown.status_code == 401
    while True:
        answer = await api.client.get(LINKS, headers={"X-API-KEY": limited})
        if answer.status_code == 429:  # with several processes, each counts
            break
        assert answer.status_code == 200
    return await present_expiring_key(api, database)


async def present_expiring_key(api: Api, database: str) -> datetime:
    """Present a key that expires; return when."""
    end = datetime.now(UTC).replace(microsecond=0) + timedelta(days=1)
    async with Database(database, pool_size=1) as pool:
        expiring = await create_key(
            pool, "test", scopes=BOTH_SCOPES, rate_limit=None, expires_at=end
        )
    answer = await api.client.get(LINKS, headers={"X-API-KEY": expiring})
    assert answer.status_code == 200
    return end


async def wait_in_vain(api: Api, database: str, metrics: Metrics) -> None:
    """Link a document whose lock another session holds, until the queue was seen in the metrics."""

    async def call() -> None:
        while "links_write_queue_oldest_seconds" not in metrics.moved:
            assert (await api.add("doc_1", "ship_1")).status_code == 503

    async with locked(database, "doc_1"):
        calls = asyncio.create_task(call())
        await metrics.reach(1, "links_write_queue_calls")
        await calls
    await metrics.fall_to(0, "links_write_queue_calls")


@asynccontextmanager
async def unreachable(database: str) -> AsyncIterator[None]:
    """Let the database accept no connections, and end the service's, until the context ends."""
    url = urlsplit(database)
    name = url.path.removeprefix("/")
    session = await asyncpg.connect(url._replace(path="/postgres").geturl())
    await session.execute(f"ALTER DATABASE {name} ALLOW_CONNECTIONS false")
    await session.fetchval(END_SESSIONS, name)
    yield
    await session.execute(f"ALTER DATABASE {name} ALLOW_CONNECTIONS true")
    await session.close()


async def call_while_unreachable(api: Api, database: str, metrics: Metrics) -> None:
    """Call while the database is unreachable, and again when it is not."""
    async with unreachable(database):
        assert (await api.add("doc_4", "ship_1")).status_code == 503
        await metrics.reach(1, "links_database_unreachable")
        await metrics.reach(1, "links_keys_refreshed_total", outcome="failed")
    await metrics.fall_to(0, "links_database_unreachable")
    assert (await api.add("doc_4", "ship_1")).status_code == 201
