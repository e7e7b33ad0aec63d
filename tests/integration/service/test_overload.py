"""More calls than a process can work on: they are answered in the order of arrival, or refused in time."""

import asyncio
import time
from collections import Counter

import httpx
import pytest

from tests.support.service.api import Api
from tests.support.service.locks import locked
from tests.support.service.metrics import Metrics
from tests.support.waiting import BUSY_S, until

PLACES = 3
LOCKED = [f"doc_{number}" for number in range(1, 2 * PLACES + 1)]


@pytest.fixture(autouse=True)
def few(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the service work on few calls at once, and let writes wait for locks for a minute."""
    monkeypatch.setattr("service.edge.calls.places.PLACES", PLACES)
    monkeypatch.setattr("service.edge.calls.places.LONG_CALLS", PLACES)
    for module in ("contended", "transaction"):
        monkeypatch.setattr(f"service.store.writing.{module}.LOCK_TIMEOUT_MS", 60_000)


def write(api: Api, document: str) -> asyncio.Task[httpx.Response]:
    """Begin to link a resource to a document."""
    return asyncio.create_task(api.add(document, "ship_1"))


def read(api: Api, document: str) -> asyncio.Task[httpx.Response]:
    """Begin to list the links of a document."""
    return asyncio.create_task(api.client.get(f"/v1/documents/{document}/links"))


async def fill_places(api: Api, metrics: Metrics) -> list[asyncio.Task[httpx.Response]]:
    """Call until a call has waited for a place in vain; return all these calls.

    While a call waits, those that have taken long leave their places.
    """
    calls: list[asyncio.Task[httpx.Response]] = []

    async def refused() -> bool:
        calls.append(read(api, "doc_20"))
        await metrics.read()
        return metrics.value("links_calls_refused_total") > 0

    await until(refused)
    return calls


def check_refusal(answer: httpx.Response) -> None:
    """Compare an answer with what is published of a refusal."""
    assert answer.status_code == 503
    assert answer.headers["content-type"] == "application/problem+json"
    assert answer.headers["retry-after"] == "1"
    assert answer.headers["x-ratelimit-limit"]
    assert answer.json()["code"] == "unavailable"
    assert "nothing was written" in answer.json()["detail"]


async def test_calls_without_a_place_are_refused_in_time(
    api: Api, database: str, caplog: pytest.LogCaptureFixture
) -> None:
    """While writes that wait for locks have all places, other calls are refused within two seconds.

    Operators and monitoring are answered meanwhile. When the locks are free, all writes succeed.
    """
    metrics = Metrics(api.client)
    async with locked(database, *LOCKED) as session:
        writes = [write(api, document) for document in LOCKED]
        before = await fill_places(api, metrics)
        began = time.monotonic()
        calls = [call(api, f"doc_{n}") for n in range(11, 14) for call in (read, write)]
        await metrics.reach(len(calls), "links_calls_in_progress", state="waiting")
        for path in ("/healthz", "/readyz"):
            assert (await api.client.get(path)).status_code == 200
        answers = await asyncio.gather(*calls)
        assert time.monotonic() - began < 2 + BUSY_S
        await session.execute("ROLLBACK")
        assert [(await each).status_code for each in writes] == [201] * len(writes)
    for answer in answers:
        check_refusal(answer)
    assert (await write(api, "doc_11")).status_code == 201
    refused = Counter([(await each).status_code for each in before])[503] + len(answers)
    await metrics.read()
    assert metrics.value("links_calls_refused_total") == refused
    assert metrics.value("links_calls_in_progress") == 0
    assert metrics.value("links_database_unreachable") == 0
    assert [each.message for each in caplog.records].count("http.overloaded") == 1


async def test_reads_and_writes_are_answered_in_the_order_of_arrival(
    api: Api, database: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Calls that wait for a place get it in the order of their arrival, reads and writes alike."""
    monkeypatch.setattr("service.edge.calls.places.WAIT_S", 1e6)
    monkeypatch.setattr("service.edge.calls.places.LONG_S", 1e6)
    metrics = Metrics(api.client)
    order: list[int] = []
    calls: list[asyncio.Task[httpx.Response]] = []
    async with locked(database, *LOCKED[:PLACES]) as session:
        writes = [write(api, document) for document in LOCKED[:PLACES]]
        await metrics.reach(PLACES, "links_calls_in_progress", state="working")
        for number in range(10):
            call = (read, write)[number % 2](api, f"doc_{10 + number}")
            call.add_done_callback(lambda done: order.append(calls.index(done)))
            calls.append(call)
            await metrics.reach(number + 1, "links_calls_in_progress", state="waiting")
        writes[0].cancel()  # one place for all
        await metrics.fall_to(0, "links_calls_in_progress", state="waiting")
        await session.execute("ROLLBACK")
        await asyncio.gather(*writes[1:], *calls)
    assert order == sorted(order)
    assert [call.result().status_code for call in calls] == [200, 201] * 5
