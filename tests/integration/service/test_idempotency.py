"""Idempotency-Key: the first success is stored for a day, and nothing else."""

import asyncio
from functools import partial

import asyncpg
import httpx
import pytest

from service.store.database import Database
from service.store.writing.replies import forget_expired
from tests.support.service.api import Api, Link, new_key, seed
from tests.support.service.locks import locked, waiting
from tests.support.topic.subscriber import check_outbox, read_outbox
from tests.support.waiting import until

KEY = {"Idempotency-Key": "5e0f6a5a-7a3b-4c39-8d1f-1a2b3c4d5e6f"}


def replayed(response: httpx.Response) -> bool:
    """Whether the response is marked as a replay."""
    return bool(response.headers.get("idempotent-replayed") == "true")


async def test_the_first_success_is_replayed(api: Api, connection: asyncpg.Connection) -> None:
    """The same call again gets the same status and body, whatever happened in between."""
    first = await api.add("doc_1", "ship_1", KEY)
    await api.unlink("doc_1", first.json()["data"]["id"])
    again = await api.add("doc_1", "ship_1", KEY)
    assert (first.status_code, replayed(first)) == (201, False)
    assert (again.status_code, replayed(again)) == (201, True)
    assert again.content == first.content
    assert await api.links("doc_1") == []
    await check_outbox(connection)


async def test_quotes_around_the_key_do_not_count(api: Api) -> None:
    """The key as a quoted string (a structured field) is the same key."""
    await api.add("doc_1", "ship_1", {"Idempotency-Key": "k"})
    assert replayed(await api.add("doc_1", "ship_1", {"Idempotency-Key": '"k"'}))


async def test_another_body_is_a_mismatch(api: Api, connection: asyncpg.Connection) -> None:
    """The same key with another body is 422, and nothing is written."""
    await api.add("doc_1", "ship_1", KEY)
    refused = await api.add("doc_1", "ship_2", KEY)
    assert (refused.status_code, refused.json()["code"]) == (422, "idempotency_mismatch")
    assert not replayed(refused)
    assert len(await read_outbox(connection)) == 1


async def test_another_query_is_a_mismatch(api: Api) -> None:
    """The same key with another query string is 422."""
    await api.link("doc_1", Link("deal", "deal_1"))
    await api.link("doc_1", Link("deal", "deal_2"))
    url = "/v1/documents/doc_1/links?resource_type=deal&resource_id="
    assert (await api.client.delete(f"{url}deal_1", headers=KEY)).status_code == 200
    assert (await api.client.delete(f"{url}deal_2", headers=KEY)).status_code == 422


async def test_keys_are_scoped(api: Api, database: str, connection: asyncpg.Connection) -> None:
    """A key has no effect on another path, another method or another workspace."""
    await api.add("doc_1", "ship_1", KEY)
    assert (await api.add("doc_2", "ship_1", KEY)).status_code == 201
    other = {"X-API-KEY": await new_key(database, "other")}
    await seed(connection, 1, 1, "other")
    elsewhere = await api.add("doc_1", "ship_1", KEY | other)
    assert (elsewhere.status_code, replayed(elsewhere)) == (201, False)


async def test_two_keys_of_a_workspace_share_its_scope(api: Api, database: str) -> None:
    """A retry with another API key of the workspace is a retry."""
    await api.add("doc_1", "ship_1", KEY)
    again = await api.add("doc_1", "ship_1", KEY | {"X-API-KEY": await new_key(database)})
    assert replayed(again)


async def test_failures_are_not_kept(api: Api) -> None:
    """A refused call stores nothing, so its key can be used again."""
    assert (await api.add("doc_1", "ship_new", KEY)).status_code == 404
    assert (await api.add("doc_1", "nonsense", KEY)).status_code == 400
    await api.client.put("/v1/entities/shipment/ship_new")
    made = await api.add("doc_1", "ship_new", KEY)
    assert (made.status_code, replayed(made)) == (201, False)


async def test_the_second_waits_for_the_first(
    api: Api, database: str, connection: asyncpg.Connection
) -> None:
    """Calls with the key of a running call wait and replay its answer."""
    async with locked(database, "doc_1"):
        calls = [asyncio.create_task(api.add("doc_1", "ship_1", KEY)) for _ in range(3)]
        await until(partial(waiting, connection))
    answers = await asyncio.gather(*calls)
    assert [answer.status_code for answer in answers] == [201] * 3
    assert sorted(map(replayed, answers)) == [False, True, True]
    assert len({answer.content for answer in answers}) == 1
    assert len(await read_outbox(connection)) == 1


@pytest.mark.parametrize(("age", "status"), [("23:59:00", 201), ("24:00:01", 200)])
async def test_a_key_is_good_for_a_day(
    api: Api, connection: asyncpg.Connection, age: str, status: int
) -> None:
    """After 24 hours the key is new again, and its new reply is stored."""
    first = await api.add("doc_1", "ship_1", KEY)
    await connection.execute(
        "UPDATE idempotency_keys SET created_at = now() - $1::text::interval", age
    )
    second = await api.add("doc_1", "ship_1", KEY)
    assert (second.status_code, replayed(second)) == (status, status == 201)
    third = await api.add("doc_1", "ship_1", KEY)
    assert replayed(third)
    assert third.content == second.content
    assert (second.content == first.content) == (status == 201)


async def test_expired_replies_are_forgotten(
    api: Api, database: str, connection: asyncpg.Connection
) -> None:
    """Replies older than a day are deleted, by one process at a time; the others stay."""
    await api.add("doc_1", "ship_1", {"Idempotency-Key": "old"})
    await connection.execute("UPDATE idempotency_keys SET created_at = now() - interval '25 hours'")
    await api.add("doc_1", "ship_2", {"Idempotency-Key": "new"})
    async with Database(database, pool_size=2) as pool:
        await asyncio.gather(forget_expired(pool), forget_expired(pool))
    assert await connection.fetchval("SELECT count(*) FROM idempotency_keys") == 1
    assert replayed(await api.add("doc_1", "ship_2", {"Idempotency-Key": "new"}))


async def test_malformed_key_is_named(api: Api) -> None:
    """A key with a space is refused, with the name of the header, and nothing is written."""
    refused = await api.add("doc_1", "ship_1", {"Idempotency-Key": "a b"})
    assert refused.status_code == 400
    assert [error["field"] for error in refused.json()["errors"]] == ["Idempotency-Key"]
    assert await api.links("doc_1") == []
