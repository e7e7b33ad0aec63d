"""A Prometheus scrapes both programs under load: each query of the dashboard and the rules gives data."""

import asyncio
import json
import math
import re
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, suppress
from itertools import count
from pathlib import Path
from typing import Any, Final

import asyncpg
import httpx
import pytest
import yaml

from deploy.local import programs
from outbox_worker.postgres.sessions import LEADER, application_name
from tests.support.parts.prometheus import RULES, Prometheus
from tests.support.relay.worker import Worker
from tests.support.service.api import GENEROUS, Api, new_key, seed
from tests.support.waiting import until
from tests.telemetry.queries import SELECTOR

DASHBOARD: Final = Path(__file__).parents[3] / "deploy" / "grafana" / "dashboard.json"
PANELS: Final[dict[str, dict[str, Any]]] = {
    panel["title"]: panel
    for panel in json.loads(DASHBOARD.read_text())["panels"]
    if panel["type"] != "row"
}
TEST_S: Final = 300
"""Longer than this test lasts, in seconds: no age may be greater."""
A_SECOND: Final = 10_000
"""More than a busy machine makes of anything in a second."""
SENSIBLE: Final[dict[str, tuple[float, float]]] = {
    "Instances of each release": (1, 2),
    "Error budgets that are left": (-1_000, 1),
    "Calls without a 5xx status": (0, 1),
    "Links within 100 ms": (0, 1),
    "Calls a second": (0, A_SECOND),
    "Time to answer": (0, 5),
    "Writes that wait": (0, 10),
    "Wait of the oldest write": (0, 5),
    "Calls and changes a transaction": (1, 10),
    "Transactions": (0, 5),
    "Steps of a transaction": (0, 5),
    "Retries in 10 minutes": (0, TEST_S),
    "Connections to Postgres": (0, 100),
    "Keys and replies a second": (0, A_SECOND),
    "Time since the last write": (0, TEST_S),
    "Unreachable": (0, 0),
    "Calls in progress": (0, 128),
    "Age of events at publication": (0, TEST_S),
    "Events within 1 s": (0, 1),
    "Lag: age of the oldest unpublished event": (0, TEST_S),
    "Lag: events": (0, A_SECOND),
    "Events published a second": (0.1, A_SECOND),
    "Bytes published a second": (1, 1_000 * A_SECOND),
    "Time to publish a batch": (0.001, 10),
    "Events a batch": (1, 25_000),
    "Leaders and standbys": (1, 1),
    "Errors, fencings and starts in 10 minutes": (0, TEST_S),
    "Age of the oldest open transaction": (0, TEST_S),
    "Time since the last publication": (0, TEST_S),
    "Paused for": (0, 0),
    "Progress of commands": (0.4, 0.4),
    "Events of commands": (40, 40),
    "Days of the ring by state": (0, 16),
    "Size of the ring": (1, 1 << 30),
    "Days that events have waited": (0, TEST_S / 86_400),
    "Days cleared in a week": (0, 16),
}
"""The range of the values of each panel in this test."""
MAY_BE_EMPTY: Final = {"Alerts that fire", "Expired rows a second"}
"""Panels of what does not happen in this test."""
FAULTS: Final = re.compile(r'status=~"5\.\."|kind="TopicLostError"|source="checkpoint"')
"""Selectors of faults that do not happen in this test."""
END_SESSION: Final = (
    "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = $1"
)
KEY_EXPIRES: Final = "UPDATE api_keys SET expires_at = now() + interval '30 days'"
# A command counts as ended 30 s after its last record, and this test lasts longer.
COMMAND_RUNS: Final = """
INSERT INTO outbox_tasks (kind, parameters, events, total, updated_at)
VALUES ('replay', '{}', 40, 100, now() + interval '1 hour')
"""
VARIABLES: Final = {"$job": ".+", "$instance": ".+", "$__rate_interval": "1m"}


def filled(query: str) -> str:
    """Return a query of the dashboard with the values of its variables."""
    for name, value in VARIABLES.items():
        query = query.replace(name, value)
    return query


def selectors() -> Iterator[str]:
    """Yield each selector of a program's metric in the rules, but those of faults."""
    for file in RULES:
        for group in yaml.safe_load(file.read_text())["groups"]:
            for rule in group["rules"]:
                for name, matchers in SELECTOR.findall(rule["expr"]):
                    if not FAULTS.search(matchers):
                        yield f"{name}{{{matchers}}}"


@asynccontextmanager
async def calls(url: str, key: str) -> AsyncIterator[None]:
    """Make, repeat, list and remove links until the context ends; some calls have an unknown key."""

    async def call_forever() -> None:
        async with httpx.AsyncClient(
            base_url=url, headers={"X-API-KEY": key}, timeout=30
        ) as client:
            api = Api(client, key)
            for number in count():
                same = {"Idempotency-Key": f"call-{number}"}
                made = [await api.add("doc_1", "ship_1", same) for _ in range(2)]
                await api.links("doc_1")
                assert made[0].is_success, made[0].text
                await api.unlink("doc_1", made[0].json()["data"]["id"])
                await client.get("/v1/documents/doc_1", headers={"X-API-KEY": "unknown"})

    task = asyncio.create_task(call_forever())
    try:
        yield
    finally:
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task


@pytest.fixture
async def prometheus(
    database: str, kafka: str, topic: str, tmp_path: Path
) -> AsyncIterator[Prometheus]:
    """Yield a Prometheus that scrapes a service and two workers under load; a leader has failed once."""
    connection = await asyncpg.connect(database)
    key = await new_key(database, rate_limit=GENEROUS)
    await connection.execute(KEY_EXPIRES)
    await connection.execute(COMMAND_RUNS)
    await seed(connection, 1, 1)
    with (
        programs.service(database, tmp_path, LINKS_WORKERS="2") as service,
        Worker(database, kafka, topic) as first,
        Worker(database, kafka, topic) as second,
    ):
        started = [await worker.wait_event("worker.started") for worker in (first, second)]
        jobs = {
            "service": [service.url.removeprefix("http://")],
            "relay": [line["url"].removeprefix("http://") for line in started],
        }
        with Prometheus(jobs) as prometheus:
            async with calls(service.url, key):
                await until(lambda: asyncio.to_thread(prometheus.values, "outbox_leader == 1"))
                await connection.execute(END_SESSION, application_name(LEADER))
                yield prometheus
    await connection.close()


async def gives(prometheus: Prometheus, query: str, low: float, high: float) -> None:
    """Return once the query has values, and all are in the range."""
    values: list[float] = []

    async def sensible() -> bool:
        nonlocal values
        values = await asyncio.to_thread(prometheus.values, query)
        return bool(values) and low <= min(values) <= max(values) <= high

    try:
        await until(sensible)
    except TimeoutError:
        message = f"{query} gives {values}, not values from {low} to {high}"
        raise AssertionError(message) from None


async def test_every_query_gives_sensible_data(prometheus: Prometheus) -> None:
    """Each panel has values in its range, each rule is evaluated, and each metric of a rule has data."""
    assert PANELS.keys() == SENSIBLE.keys() | MAY_BE_EMPTY
    for title, panel in PANELS.items():
        for target in panel["targets"]:
            query = filled(target["expr"])
            if title in MAY_BE_EMPTY:
                prometheus.values(query)
            else:
                await gives(prometheus, query, *SENSIBLE[title])
    for selector in set(selectors()):
        await gives(prometheus, selector, -math.inf, math.inf)
    groups = prometheus.get("rules")["groups"]
    rules = [rule for group in groups for rule in group["rules"]]
    assert {(rule["name"], rule["health"]) for rule in rules if rule["health"] != "ok"} == set()
    for rule in rules:
        prometheus.values(rule["query"])
