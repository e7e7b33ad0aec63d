"""The described paths: open to all, kept by those who read them, and strict in the page."""

import re

import httpx
import pytest

from service.described.events import EVENT_TYPES

JSON_PATHS = ["/openapi.json", "/asyncapi.json", *(f"/schemas/{name}.json" for name in EVENT_TYPES)]
PATHS = [*JSON_PATHS, "/docs", "/docs/swagger-ui-bundle.js"]


@pytest.mark.parametrize("path", PATHS)
async def test_reading_needs_no_key(client: httpx.AsyncClient, path: str) -> None:
    """GET gives the text, HEAD its headers alone, OPTIONS what the path takes."""
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
async def test_what_is_known_is_not_sent_again(client: httpx.AsyncClient, path: str) -> None:
    """A reader with the text's ETag, weak or among others, is told that it is unchanged."""
    etag = (await client.get(path)).headers["etag"]
    for known in (etag, f"W/{etag}", f'"other", {etag}', "*"):
        response = await client.get(path, headers={"If-None-Match": known})
        assert (response.status_code, response.content) == (304, b"")
        assert response.headers["etag"] == etag
    response = await client.get(path, headers={"If-None-Match": '"other"'})
    assert response.status_code == 200


@pytest.mark.parametrize("path", [*PATHS, "/healthz", "/readyz", "/metrics"])
async def test_nothing_is_written_there(client: httpx.AsyncClient, path: str) -> None:
    """Other methods are refused as everywhere, with those that the path takes."""
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
    """A schema or a file that there is not is a problem like any other."""
    response = await client.get(path)
    assert (response.status_code, response.json()["code"]) == (404, "not_found")
    assert response.headers["content-type"] == "application/problem+json"


async def test_unknown_schema_names_the_known(client: httpx.AsyncClient) -> None:
    """Who guesses an event type is told which there are."""
    detail = (await client.get("/schemas/document.lost.json")).json()["detail"]
    assert all(name in detail for name in EVENT_TYPES)


async def test_page_takes_nothing_from_elsewhere(client: httpx.AsyncClient) -> None:
    """Its policy forbids other hosts and inline code, and every file that it names is served."""
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
