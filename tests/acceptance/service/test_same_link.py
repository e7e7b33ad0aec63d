"""Fifty callers make and delete one link, on two worker processes."""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator
from pathlib import Path

import asyncpg
import httpx
import pytest

from deploy.local import programs
from tests.support.service.api import GENEROUS, Api, Link, new_key, seed
from tests.support.topic.subscriber import check_outbox, read_outbox

CALLERS = 50
ADDING = 30
ROUNDS = 4


@pytest.fixture
async def api(database: str, connection: asyncpg.Connection, tmp_path: Path) -> AsyncIterator[Api]:
    """Yield a client with a connection for each caller."""
    key = await new_key(database)
    await seed(connection, 1, 1)
    settings = {"LINKS_WORKERS": "2", "LINKS_RATE_LIMIT": GENEROUS}
    with programs.service(database, tmp_path, **settings) as service:
        async with httpx.AsyncClient(
            base_url=service.url,
            headers={"X-API-KEY": key},
            limits=httpx.Limits(max_connections=CALLERS, max_keepalive_connections=CALLERS),
            timeout=30,
        ) as client:
            await asyncio.gather(*(client.get("/healthz") for _ in range(CALLERS)))
            yield Api(client, key)


@pytest.mark.parametrize("call", ["link", "links"])
async def test_fifty_callers_add_the_same_link(
    api: Api, connection: asyncpg.Connection, call: str
) -> None:
    """One caller gets 201, the others get 200, and there is one row and one event."""
    if call == "link":
        calls = [api.link("doc_1", Link("deal", "deal_1")) for _ in range(CALLERS)]
    else:
        calls = [api.add("doc_1", "ship_1") for _ in range(CALLERS)]
    answers = await asyncio.gather(*calls)
    assert Counter(answer.status_code for answer in answers) == {201: 1, 200: CALLERS - 1}
    assert await connection.fetchval("SELECT count(*) FROM document_links") == 1
    assert len(await read_outbox(connection)) == 1
    await check_outbox(connection)


async def test_callers_add_and_delete_the_same_link(
    api: Api, connection: asyncpg.Connection
) -> None:
    """There is one row, one 201, and one event for each answered restoration and removal."""
    url = "/v1/documents/doc_1/links"

    async def add() -> list[httpx.Response]:
        return [await api.add("doc_1", "ship_1") for _ in range(ROUNDS)]

    async def remove() -> list[httpx.Response]:
        return [await api.client.delete(f"{url}?resource_id=ship_1") for _ in range(ROUNDS)]

    callers = [add() for _ in range(ADDING)] + [remove() for _ in range(CALLERS - ADDING)]
    lists = await asyncio.gather(*callers)
    adds = [answer for answers in lists[:ADDING] for answer in answers]
    removes = [answer for answers in lists[ADDING:] for answer in answers]
    assert {answer.status_code for answer in removes} <= {200, 404}
    messages = Counter(answer.json()["message"] for answer in adds)
    assert messages["Document linked"] == sum(answer.status_code == 201 for answer in adds) == 1
    unlinked = sum(answer.status_code == 200 for answer in removes)
    rows = await connection.fetch("SELECT event_type, count(*) FROM outbox GROUP BY 1")
    assert Counter({row[0]: row[1] for row in rows}) == Counter(
        {
            "document.linked": 1,
            "document.restored": messages["Link restored"],
            "document.unlinked": unlinked,
        }
    )
    assert await connection.fetchval("SELECT count(*) FROM document_links") == 1
    await check_outbox(connection)
