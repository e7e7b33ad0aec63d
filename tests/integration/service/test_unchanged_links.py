"""Calls that link what is linked already, while another session has locked their document."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from functools import partial

import asyncpg
import httpx
import pytest

from tests.support.service.api import Api, Link, Service, new_key, seed
from tests.support.service.locks import locked, waiting
from tests.support.topic.subscriber import check_outbox
from tests.support.waiting import until

CALLERS = 20
EVENTS = "SELECT count(*) FROM outbox"
DEAL = Link("deal", "deal_1", "buyer")
MARK = "UPDATE entities SET deleted_at = now() WHERE id = 'ship_1'"


@pytest.fixture
async def apis(database: str, connection: asyncpg.Connection) -> AsyncIterator[list[Api]]:
    """Yield a client for each of two services on one database."""
    key = await new_key(database)
    await seed(connection, 3, CALLERS)
    async with AsyncExitStack() as stack:
        services = [await stack.enter_async_context(Service(database)) for _ in range(2)]
        yield [await service.api(key) for service in services]


async def link_deal(api: Api, headers: dict[str, str] | None = None) -> httpx.Response:
    """Link the deal to the document."""
    return await api.link("doc_1", DEAL, headers)


async def test_an_active_link_is_answered_while_its_document_is_locked(
    apis: list[Api], database: str, connection: asyncpg.Connection
) -> None:
    """Each process answers as without the lock, with the document's ETag, and no session waits."""
    made = [await apis[0].add("doc_1", f"ship_{n}") for n in range(1, CALLERS + 1)]
    deal = await link_deal(apis[0])
    events = await connection.fetchval(EVENTS)
    async with locked(database, "doc_1"):
        for api in apis:
            calls = [api.add("doc_1", f"ship_{n}") for n in range(1, CALLERS + 1)]
            answers = await asyncio.gather(*calls)
            again = await link_deal(api)
            assert not await waiting(connection)
            assert [answer.status_code for answer in answers] == [200] * CALLERS
            assert {answer.json()["message"] for answer in answers} == {"Already linked"}
            for first, answer in zip(made, answers, strict=True):
                assert answer.json()["data"] == first.json()["data"]
            assert (again.status_code, again.json()) == (200, deal.json())
            assert {answer.headers["ETag"] for answer in (*answers, again)} == {
                deal.headers["ETag"]
            }
    assert await connection.fetchval(EVENTS) == events


async def test_the_answer_is_of_what_is_committed(
    apis: list[Api], database: str, connection: asyncpg.Connection
) -> None:
    """While a removal is not committed the link is active; after it, the same call restores the link."""
    link = (await apis[0].add("doc_1", "ship_1")).json()["data"]["id"]
    async with locked(database, "doc_1") as session:
        removal = asyncio.create_task(apis[1].unlink("doc_1", link))
        await until(partial(waiting, connection))
        assert (await apis[0].add("doc_1", "ship_1")).json()["message"] == "Already linked"
        await session.execute("ROLLBACK")
        assert (await removal).status_code == 200
    assert (await apis[0].add("doc_1", "ship_1")).json()["message"] == "Link restored"
    await check_outbox(connection)


@pytest.mark.parametrize("removed", ["link", "entity", "document", "never made"])
async def test_a_call_that_would_change_something_waits_for_the_lock(
    apis: list[Api], database: str, connection: asyncpg.Connection, removed: str
) -> None:
    """A removed link, and a deleted entity or document, are not answered by what was read."""
    api = apis[0]
    if removed != "never made":
        await api.add("doc_1", "ship_1")
    if removed == "link":
        await api.client.delete("/v1/documents/doc_1/links", params={"resource_id": "ship_1"})
    elif removed == "entity":
        await connection.execute(MARK)  # as a deletion that has not removed its links yet
    elif removed == "document":
        await api.client.delete("/v1/documents/doc_1")
    async with locked(database, "doc_1") as session:
        call = asyncio.create_task(api.add("doc_1", "ship_1"))
        await until(partial(waiting, connection))
        assert not call.done()
        await session.execute("ROLLBACK")
        status = (await call).status_code
    expected = {"link": 200, "entity": 404, "document": 404, "never made": 201}
    assert status == expected[removed]


@pytest.mark.parametrize(
    "headers", [{"Idempotency-Key": "again"}, {"If-Match": "*"}], ids=["key", "precondition"]
)
async def test_a_key_or_a_precondition_needs_the_lock(
    apis: list[Api],
    database: str,
    connection: asyncpg.Connection,
    headers: dict[str, str],
) -> None:
    """A reply that has to be stored, and a revision that has to stay, are decided with the lock."""
    await link_deal(apis[0])
    async with locked(database, "doc_1") as session:
        call = asyncio.create_task(link_deal(apis[0], headers))
        await until(partial(waiting, connection))
        assert not call.done()
        await session.execute("ROLLBACK")
        assert (await call).status_code == 200
    if "Idempotency-Key" in headers:
        replayed = await link_deal(apis[1], headers)
        assert replayed.headers["Idempotent-Replayed"] == "true"


async def test_calls_that_change_nothing_and_others_share_a_document(
    apis: list[Api], database: str, connection: asyncpg.Connection
) -> None:
    """Behind one lock, repeated calls are answered at once, and the new links when it is free."""
    await apis[0].add("doc_1", "ship_1")
    async with locked(database, "doc_1") as session:
        repeated = [asyncio.create_task(apis[0].add("doc_1", "ship_1")) for _ in range(CALLERS)]
        new = [
            asyncio.create_task(apis[0].add("doc_1", f"item_{n}")) for n in range(1, CALLERS + 1)
        ]
        answers = await asyncio.gather(*repeated)
        assert {answer.json()["message"] for answer in answers} == {"Already linked"}
        await until(partial(waiting, connection))
        assert not any(call.done() for call in new)
        await session.execute("ROLLBACK")
        assert {answer.status_code for answer in await asyncio.gather(*new)} == {201}
    await check_outbox(connection)
