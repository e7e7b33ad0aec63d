"""Many callers write to one document through several processes, and none is overtaken again and again."""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from functools import partial

import asyncpg
import httpx
import pytest

from service.store.writing import contended
from service.store.writing.transaction import LOCK_TIMEOUT_MS
from tests.support.service.api import Api, Service, new_key, seed
from tests.support.service.locks import locked, waiting
from tests.support.topic.subscriber import check_outbox
from tests.support.waiting import until

PROCESSES = 2
CALLERS = 20
POOL = 5
NEEDS_LOCK = {"If-Match": "*"}
RETRIED = 'links_calls_retried_total{reason="locked"}'
TRANSACTIONS = "SELECT count(DISTINCT xid) FROM outbox"


@pytest.fixture
async def apis(database: str, connection: asyncpg.Connection) -> AsyncIterator[list[Api]]:
    """Yield a client for each of several services on one database, each with its own pool."""
    key = await new_key(database)
    await seed(connection, 20, CALLERS)
    async with AsyncExitStack() as stack:
        services = [
            await stack.enter_async_context(Service(database, LINKS_POOL_SIZE=f"{POOL}"))
            for _ in range(PROCESSES)
        ]
        yield [await service.api(key) for service in services]


def link_all(apis: list[Api], document: str) -> list[asyncio.Task[httpx.Response]]:
    """Link the document concurrently through all processes, each call to another resource."""
    return [
        asyncio.create_task(api.add(document, f"{prefix}_{number}"))
        for api, prefix in zip(apis, ("ship", "item"), strict=True)
        for number in range(1, CALLERS + 1)
    ]


async def test_requests_that_wait_for_one_lock_are_written_together(
    apis: list[Api], database: str, connection: asyncpg.Connection
) -> None:
    """In each process one session waits for the lock, and writes all requests in one transaction."""
    async with locked(database, "doc_1") as session:
        calls = link_all(apis, "doc_1")
        await until(partial(waiting, connection, PROCESSES))
        await session.execute("ROLLBACK")
        answers = await asyncio.gather(*calls)
    assert [answer.status_code for answer in answers] == [201] * PROCESSES * CALLERS
    assert await connection.fetchval(TRANSACTIONS) == PROCESSES
    await check_outbox(connection)


async def left_out(api: Api, calls: int) -> bool:
    """Whether joint transactions have left out at least so many calls, since their lock was not free."""
    metrics = (await api.client.get("/metrics")).text
    return f"{RETRIED} {float(calls)}" in metrics


@pytest.mark.parametrize("is_free", [True, False])
async def test_requests_that_arrive_during_the_wait_are_written_with_the_others(
    apis: list[Api],
    database: str,
    connection: asyncpg.Connection,
    monkeypatch: pytest.MonkeyPatch,
    *,
    is_free: bool,
) -> None:
    """One transaction also writes to a second document if its lock is free, and otherwise the next one."""
    # While the first document is locked, the transaction must not end.
    monkeypatch.setattr(contended, "SHARED_LOCK_TIMEOUT_MS", LOCK_TIMEOUT_MS)
    api = apis[0]
    async with locked(database, "doc_1") as session, locked(database, "doc_2") as other:
        first = asyncio.create_task(api.add("doc_1", "ship_1"))
        await until(partial(waiting, connection, 1))
        second = asyncio.create_task(api.add("doc_2", "ship_1", NEEDS_LOCK))
        await until(partial(left_out, api, 2))
        if is_free:
            await other.execute("ROLLBACK")
        await session.execute("ROLLBACK")
        assert (await first).status_code == 201
        if not is_free:
            await until(partial(waiting, connection, 1))
            assert not second.done()
            await other.execute("ROLLBACK")
        assert (await second).status_code == 201
    assert await connection.fetchval(TRANSACTIONS) == (1 if is_free else 2)
    await check_outbox(connection)


async def test_a_repeated_idempotency_key_waits_for_the_first_call(
    apis: list[Api], database: str, connection: asyncpg.Connection
) -> None:
    """Of two calls with one key that wait for a lock, one writes, and the other replays its reply."""
    headers = {"Idempotency-Key": "once"}
    async with locked(database, "doc_1") as session:
        calls = [asyncio.create_task(apis[0].add("doc_1", "ship_1", headers)) for _ in range(2)]
        await until(partial(waiting, connection, 1))
        await session.execute("ROLLBACK")
        answers = await asyncio.gather(*calls)
    assert [answer.status_code for answer in answers] == [201, 201]
    assert sorted("Idempotent-Replayed" in answer.headers for answer in answers) == [False, True]
    await check_outbox(connection)


async def test_a_locked_document_delays_no_other(
    apis: list[Api], database: str, connection: asyncpg.Connection
) -> None:
    """Requests that wait for another document are written as soon as its lock is free."""
    async with locked(database, "doc_1"), locked(database, "doc_2") as session:
        stuck, freed = link_all(apis, "doc_1"), link_all(apis, "doc_2")
        await until(partial(waiting, connection, PROCESSES))
        await session.execute("ROLLBACK")
        assert [answer.status_code for answer in await asyncio.gather(*freed)] == [201] * len(freed)
        assert not any(call.done() for call in stuck)
        answers = await asyncio.gather(*stuck)
    assert {answer.status_code for answer in answers} == {503}
    await check_outbox(connection)


async def test_callers_of_one_document_leave_the_pool_to_others(
    apis: list[Api], database: str, connection: asyncpg.Connection
) -> None:
    """A read is answered while more replacements than pool connections wait for a document."""
    api = apis[0]
    async with locked(database, "doc_1") as session:
        calls = [
            asyncio.create_task(api.client.put("/v1/documents/doc_1", json={"category": f"{n}"}))
            for n in range(CALLERS)
        ]
        await until(partial(waiting, connection, 1))
        assert (await api.client.get("/v1/documents/doc_2")).status_code == 200
        assert not any(call.done() for call in calls)
        await session.execute("ROLLBACK")
        answers = await asyncio.gather(*calls)
    assert [answer.status_code for answer in answers] == [200] * CALLERS


async def test_many_locked_documents_leave_the_pool_to_readers(
    apis: list[Api], database: str, connection: asyncpg.Connection
) -> None:
    """A read is answered while writes wait for more locked documents than pool connections."""
    api = apis[0]
    names = [f"doc_{number}" for number in range(1, 11)]
    async with locked(database, *names) as session:
        calls = [asyncio.create_task(api.add(name, "ship_1")) for name in names]
        calls += [
            asyncio.create_task(api.client.put(f"/v1/documents/{name}", json={"category": "x"}))
            for name in names
        ]
        await until(partial(waiting, connection, POOL - 1))
        for _ in range(3):
            assert (await api.client.get("/v1/documents/doc_11")).status_code == 200
        assert not any(call.done() for call in calls)
        await session.execute("ROLLBACK")
        answers = await asyncio.gather(*calls)
    assert {answer.status_code for answer in answers} == {200, 201}


async def test_links_during_constant_replacements(
    apis: list[Api], connection: asyncpg.Connection
) -> None:
    """A call in a shared transaction gets its turn among calls with separate transactions."""
    linked = asyncio.Event()
    replaced = Counter[int]()

    async def replace(api: Api, number: int) -> None:
        while not linked.is_set():
            body = {"display_name": f"{number}.{replaced[200]}"}
            replaced[(await api.client.put("/v1/documents/doc_1", json=body)).status_code] += 1

    tasks = [asyncio.create_task(replace(api, n)) for api in apis for n in range(4)]

    async def busy() -> bool:
        return replaced[200] > len(tasks)

    await until(busy)
    answers = [await api.add("doc_1", f"ship_{n}") for n in range(1, 6) for api in apis]
    linked.set()
    await asyncio.gather(*tasks)
    assert [answer.status_code for answer in answers] == [201, 200] * 5
    assert set(replaced) == {200}
    await check_outbox(connection)


async def test_replacements_during_constant_links(
    apis: list[Api], connection: asyncpg.Connection
) -> None:
    """A call with a separate transaction gets its turn among the shared transactions of another process."""
    replaced = asyncio.Event()
    linked = Counter[int]()

    async def toggle(number: int) -> None:
        while not replaced.is_set():
            answer = await apis[0].add("doc_1", f"ship_{number}")
            linked[answer.status_code] += 1
            await apis[0].unlink("doc_1", answer.json()["data"]["id"])

    tasks = [asyncio.create_task(toggle(n)) for n in range(1, CALLERS + 1)]

    async def busy() -> bool:
        return linked.total() > CALLERS

    await until(busy)
    answers = [
        await apis[1].client.put("/v1/documents/doc_1", json={"resources": [f"item_{n}"]})
        for n in range(1, 11)
    ]
    replaced.set()
    await asyncio.gather(*tasks)
    assert [answer.status_code for answer in answers] == [200] * 10
    assert set(linked) <= {200, 201}
    await check_outbox(connection)
