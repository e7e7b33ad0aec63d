"""Rate limits over HTTP: the headers of each answer, and 429."""

import time

import asyncpg
import httpx

from tests.support.service.api import Service, new_key, seed

LINKS = "/v1/documents/doc_1/links"


async def client_of(service: Service, rate_limit: str | None = None) -> httpx.AsyncClient:
    """Return a client with a new key."""
    return await service.client(x_api_key=await new_key(service.dsn, rate_limit=rate_limit))


async def test_every_answer_to_a_known_key_tells_its_quota(
    database: str, connection: asyncpg.Connection
) -> None:
    """Successes and failures count, and have the remaining calls in both families of headers."""
    async with Service(database, LINKS_RATE_LIMIT="1000/day") as service:
        client = await client_of(service)
        await seed(connection, 1, 1)
        answers = [
            await client.get(LINKS),
            await client.get("/v1/nothing"),
            await client.put(LINKS),
            await client.post(LINKS, content=b"{"),
            await client.post(LINKS, json={"resource_id": "ship_1"}),
            await client.get("/v1/documents/doc_none/links"),
        ]
    assert [each.status_code for each in answers] == [200, 404, 405, 415, 201, 404]
    assert [int(each.headers["x-ratelimit-remaining"]) for each in answers] == [
        999, 998, 997, 996, 995, 994,
    ]  # fmt: skip
    for each in answers:
        assert each.headers["x-ratelimit-limit"] == "1000"
        assert time.time() < int(each.headers["x-ratelimit-reset"]) <= time.time() + 86_400
        assert each.headers["ratelimit-policy"] == '"default";q=1000;w=86400'
        assert f";r={each.headers['x-ratelimit-remaining']};" in each.headers["ratelimit"]


async def test_a_quota_that_is_used_up_is_429(
    database: str, connection: asyncpg.Connection
) -> None:
    """A call above the limit is 429 with Retry-After, and writes nothing."""
    async with Service(database, LINKS_RATE_LIMIT="2/day") as service:
        client = await client_of(service)
        await seed(connection, 1, 1)
        began = time.time()
        answers = [await client.post(LINKS, json={"resource_id": "ship_1"}) for _ in range(3)]
        ended = time.time()
    assert [each.status_code for each in answers] == [201, 200, 429]
    refused = answers[-1]
    assert refused.json()["code"] == "rate_limited"
    assert refused.headers["content-type"] == "application/problem+json"
    assert refused.headers["x-ratelimit-remaining"] == "0"
    assert 1 <= int(refused.headers["retry-after"]) <= 86_400
    answered = int(refused.headers["x-ratelimit-reset"]) - int(refused.headers["retry-after"])
    assert began - 1 < answered < ended + 1  # both headers are whole seconds


async def test_a_key_has_its_own_limit(database: str, connection: asyncpg.Connection) -> None:
    """A key's own limit overrides the service's, and its calls do not count for other keys."""
    async with Service(database, LINKS_RATE_LIMIT="1/day") as service:
        own, plain = await client_of(service, "3/day"), await client_of(service)
        await seed(connection, 1, 1)
        assert [(await own.get(LINKS)).status_code for _ in range(4)] == [200, 200, 200, 429]
        assert [(await plain.get(LINKS)).status_code for _ in range(2)] == [200, 429]


async def test_pages_without_a_key_are_not_limited(database: str) -> None:
    """Pages that need no key are not limited."""
    async with Service(database, LINKS_RATE_LIMIT="1/day") as service:
        client = await service.client()
        answers = [await client.get("/healthz") for _ in range(3)]
    assert {each.status_code for each in answers} == {200}
    assert "x-ratelimit-limit" not in answers[0].headers
