"""Lists during writes: a caller that follows the Link headers sees each remaining link once."""

import asyncio
import random
from typing import Any

import httpx
import pytest

from tests.support.service.api import Api, Link

STAYING = [f"item_{n}" for n in range(1, 21)]
COMING_AND_GOING = [f"ship_{n}" for n in range(1, 21)]


async def follow(api: Api, url: str | None, between: Any) -> list[dict[str, Any]]:  # noqa: ANN401 - any coroutine function
    """Read a list to its end along its Link headers; run `others` after each page."""
    seen = []
    while url:
        page = await api.client.get(url)
        assert page.status_code == 200, page.text
        seen += page.json()["data"]
        following = page.links.get("next", {}).get("url")
        url = str(page.url.join(following)) if following else None
        await between()
    return seen


async def test_links_of_a_document(api: Api) -> None:
    """Each remaining link is listed exactly once, in order, while others are added and removed."""
    choice = random.Random(1)
    for staying, coming in zip(STAYING, COMING_AND_GOING, strict=True):
        await api.add("doc_1", coming)
        await api.add("doc_1", staying)

    async def others_write() -> None:
        for resource in choice.sample(COMING_AND_GOING, 4):
            answer = await api.client.delete(f"/v1/documents/doc_1/links?resource_id={resource}")
            if answer.status_code == 404:
                await api.add("doc_1", resource)

    seen = await follow(api, "/v1/documents/doc_1/links?limit=3", others_write)
    names = [link["resource"]["id"] for link in seen]
    assert [name for name in names if name in STAYING] == STAYING
    assert len(names) == len(set(names))


@pytest.mark.parametrize(
    "url",
    [
        "/v1/documents?resource_id=deal_1&limit=3",
        "/v1/documents?resource_id=deal_1&resource_type=deal&limit=3",
        "/v1/entities/deal/deal_1/documents?limit=3",
        "/v1/entities/deal/deal_1/documents?limit=3&role=a%20%26%20b",
    ],
)
async def test_documents_of_an_entity(api: Api, url: str) -> None:
    """The reverse look-up lists each remaining document exactly once, with its filters on each page."""
    deal = Link("deal", "deal_1", "a & b")
    for number in range(1, 21):
        await api.link(f"doc_{number}", deal)
    going = list(range(1, 21, 2))

    async def others_write() -> None:
        if going:
            query = "resource_id=deal_1&resource_type=deal"
            await api.client.delete(f"/v1/documents/doc_{going.pop(0)}/links?{query}")

    seen = [document["id"] for document in await follow(api, url, others_write)]
    assert [name for name in seen if int(name[4:]) % 2 == 0] == [
        f"doc_{number}" for number in range(2, 21, 2)
    ]
    assert len(seen) == len(set(seen))


async def test_filters_are_kept_along_the_pages(api: Api) -> None:
    """The next page's address has the filters of this one, and its number; its cursor is also given alone."""
    await asyncio.gather(*(api.add("doc_1", f"ship_{number}") for number in range(1, 8)))
    url = "/v1/documents/doc_1/links?resource_type=shipment&limit=3"
    first = await api.client.get(url)
    second = await api.client.get(first.url.join(first.links["next"]["url"]))
    third = await api.client.get(second.url.join(second.links["next"]["url"]))
    pages = [page.json()["pagination"] for page in (first, second, third)]
    assert pages == [{"page": n, "limit": 3, "total": 7} for n in (1, 2, 3)]
    assert "next" not in third.links
    assert "next-cursor" not in third.headers
    assert f"cursor={first.headers['next-cursor']}" in first.links["next"]["url"]
    alone = await api.client.get(f"{url}&cursor={first.headers['next-cursor']}")
    assert alone.json()["data"] == second.json()["data"]


async def refused(api: Api, query: str) -> httpx.Response:
    """Return the refusal of a list with this query."""
    return await api.client.get(f"/v1/documents/doc_1/links?{query}")


@pytest.mark.parametrize(
    ("query", "field"),
    [
        ("page=0", "page"),
        ("page=-1", "page"),
        ("page=1.5", "page"),
        ("page=", "page"),
        ("page=99999999999999999999", "page"),
        ("limit=0", "limit"),
        ("limit=101", "limit"),
        ("limit=ten", "limit"),
        ("cursor=page2", "cursor"),
        ("cursor=", "cursor"),
        ("resource_type=truck", "resource_type"),
        ("resource_id=%00", "resource_id"),
        ("order=asc", "order"),
    ],
)
async def test_malformed_query_names_its_parameter(api: Api, query: str, field: str) -> None:
    """A malformed page, limit or cursor is 400, with its name."""
    answer = await refused(api, query)
    assert answer.status_code == 400
    assert [error["field"] for error in answer.json()["errors"]] == [field]
