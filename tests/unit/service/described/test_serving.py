"""The paths of the descriptions: without a key, cacheable, and with a strict policy for the page."""

import re

import httpx
import pytest

from service.described.events import EVENT_TYPES

JSON_PATHS = ["/openapi.json", "/asyncapi.json", *(f"/schemas/{name}.json" for name in EVENT_TYPES)]
PATHS = [*JSON_PATHS, "/docs", "/docs/swagger-ui-bundle.js"]


@pytest.mark.parametrize("path", PATHS)
async def test_reading_needs_no_key(client: httpx.AsyncClient, path: str) -> None:
    """GET returns the text, HEAD only its headers, OPTIONS the methods."""
    got, head, options = [
        await client.request(method, path) for method in ("GET", "HEAD", "OPTIONS")
    ]
    assert (got.status_code, head.status_code, options.status_code) == (200, 200, 204)
    assert int(head.headers["content-length"]) == len(got.content) > 0
    assert head.content == b""
    assert head.headers["etag"] == got.headers["etag"]
    assert options.headers["allow"] == "GET, HEAD, OPTIONS"
    assert all(response.headers["x-request-id"] for response in (got, head, options))


@pytest.mark.parametrize("path", PATHS)
async def test_if_none_match(client: httpx.AsyncClient, path: str) -> None:
    """A reader that sends the text's ETag, weak or in a list, gets 304."""
    etag = (await client.get(path)).headers["etag"]
    for known in (etag, f"W/{etag}", f'"other", {etag}', "*"):
        response = await client.get(path, headers={"If-None-Match": known})
        assert (response.status_code, response.content) == (304, b"")
        assert response.headers["etag"] == etag
    response = await client.get(path, headers={"If-None-Match": '"other"'})
    assert response.status_code == 200


@pytest.mark.parametrize("path", [*PATHS, "/healthz", "/readyz", "/metrics"])
async def test_nothing_is_written_there(client: httpx.AsyncClient, path: str) -> None:
    """Other methods are refused as on each path, with the allowed methods."""
    response = await client.post(path)
    assert (response.status_code, response.json()["code"]) == (405, "method_not_allowed")
    assert response.headers["allow"] == "GET, HEAD, OPTIONS"


@pytest.mark.parametrize(
    "path",
    [
        "/schemas/document.lost.json",
        "/schemas/x",
        "/docs/x",
        "/docs/../routes.py",
        "/docs/%2e%2e/x",
    ],
)
async def test_unknown_names_are_not_found(client: httpx.AsyncClient, path: str) -> None:
    """An unknown schema or file is a problem with status 404."""
    response = await client.get(path)
    assert (response.status_code, response.json()["code"]) == (404, "not_found")
    assert response.headers["content-type"] == "application/problem+json"


async def test_unknown_schema_names_the_known(client: httpx.AsyncClient) -> None:
    """The answer to an unknown event type lists the known ones."""
    detail = (await client.get("/schemas/document.lost.json")).json()["detail"]
    assert all(name in detail for name in EVENT_TYPES)


async def test_page_takes_nothing_from_elsewhere(client: httpx.AsyncClient) -> None:
    """The page's policy forbids other hosts and inline code, and the service has each file that it names."""
    page = await client.get("/docs")
    policy = page.headers["content-security-policy"]
    assert "default-src 'none'" in policy
    assert "unsafe" not in policy
    assert "http" not in policy
    names = re.findall(r'(?:src|href)="([^"]+)"', page.text)
    assert len(names) == 5
    for name in names:
        response = await client.get(f"/{name}")
        assert response.status_code == 200
        assert response.headers["x-content-type-options"] == "nosniff"
