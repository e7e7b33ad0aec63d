"""The service behind a proxy that removes a path prefix, which the service does not know."""

from collections.abc import AsyncIterator
from urllib.parse import urljoin

import asyncpg
import httpx
import pytest
from starlette.types import ASGIApp, Receive, Scope, Send

from tests.support.service.api import Service, new_key, seed

PREFIX = "/some/where"
BASE = f"http://proxy{PREFIX}"


def behind_a_prefix(app: ASGIApp) -> ASGIApp:
    """Return the app behind a proxy that removes the prefix."""

    async def proxy(scope: Scope, receive: Receive, send: Send) -> None:
        assert scope["path"].startswith(f"{PREFIX}/")
        shortened = {
            "path": scope["path"].removeprefix(PREFIX),
            "raw_path": scope["raw_path"].removeprefix(PREFIX.encode()),
        }
        await app({**scope, **shortened}, receive, send)

    return proxy


@pytest.fixture
async def client(database: str, connection: asyncpg.Connection) -> AsyncIterator[httpx.AsyncClient]:
    """Yield a client of the proxy, with a key, documents and entities."""
    async with Service(database) as service:
        headers = {"X-API-KEY": await new_key(database)}
        await seed(connection, 7, 7)
        transport = httpx.ASGITransport(app=behind_a_prefix(service.app))
        async with httpx.AsyncClient(transport=transport, headers=headers) as client:
            yield client


async def test_the_next_page_is_found(client: httpx.AsyncClient) -> None:
    """`Link` is relative to the request on each of the three lists."""
    for number in range(1, 8):
        body = {"resources": [f"ship_{number}", "item_1"]}
        answer = await client.put(f"{BASE}/v1/documents/doc_1", json=body)
        answer = await client.put(
            f"{BASE}/v1/documents/doc_{number}", json={"resources": ["item_1"]}
        )
        assert answer.is_success
    for path in (
        "/v1/documents?resource_id=item_1&limit=3",
        "/v1/entities/item/item_1/documents?limit=3",
    ):
        seen = []
        url = BASE + path
        while url:
            page = await client.get(url)
            assert page.status_code == 200, url
            seen += [each["id"] for each in page.json()["data"]]
            following = page.links.get("next", {}).get("url")
            url = urljoin(str(page.url), following) if following else ""
        assert sorted(seen) == [f"doc_{number}" for number in range(1, 8)]


async def test_the_next_page_of_links_is_found(client: httpx.AsyncClient) -> None:
    """`Link` is relative to the request on the list of a document's links."""
    wanted = [f"ship_{number}" for number in range(1, 8)]
    await client.put(f"{BASE}/v1/documents/doc_1", json={"resources": wanted})
    page = await client.get(f"{BASE}/v1/documents/doc_1/links?limit=4")
    second = await client.get(urljoin(str(page.url), page.links["next"]["url"]))
    seen = [each["resource"]["id"] for each in page.json()["data"] + second.json()["data"]]
    assert sorted(seen) == wanted


async def test_the_described_server(client: httpx.AsyncClient) -> None:
    """`servers` in the OpenAPI document leads to the prefix, relative to the document's own address."""
    document = (await client.get(f"{BASE}/openapi.json")).json()
    (server,) = document["servers"]
    url = urljoin(f"{BASE}/openapi.json", server["url"])
    assert url.rstrip("/") == BASE
    answer = await client.get(f"{url.rstrip('/')}/v1/documents/doc_1")
    assert answer.status_code == 200


async def test_the_files_of_the_docs_page(client: httpx.AsyncClient) -> None:
    """The files of /docs and the document that it shows are found under the prefix."""
    page = await client.get(f"{BASE}/docs")
    references = [part.partition('"')[0] for part in page.text.split('href="')[1:]]
    references += [part.partition('"')[0] for part in page.text.split('src="')[1:]]
    assert len(references) >= 5
    for reference in [*references, "openapi.json"]:
        assert (await client.get(urljoin(f"{BASE}/docs", reference))).status_code == 200, reference


async def test_the_root_and_the_page_of_the_events(client: httpx.AsyncClient) -> None:
    """The redirect of / and the links of /docs/events stay under the prefix."""
    front = await client.get(f"{BASE}/", headers={"Accept": "text/html"})
    assert urljoin(str(front.url), front.headers["location"]) == f"{BASE}/docs"
    page = await client.get(f"{BASE}/docs/events")
    references = [part.partition('"')[0] for part in page.text.split(' href="')[1:]]
    assert len(references) > 10
    for reference in references:
        url = urljoin(str(page.url), reference)
        assert url.startswith(f"{BASE}/"), reference
        assert (await client.get(url)).status_code == 200, reference
