"""The paths of the descriptions: without a key, cacheable, and with a strict policy for the page."""

import re
from urllib.parse import urljoin

import httpx
import pytest

from service.described.events import EVENT_TYPES

JSON_PATHS = ["/openapi.json", "/asyncapi.json", *(f"/schemas/{name}.json" for name in EVENT_TYPES)]
PATHS = [
    *JSON_PATHS,
    "/docs",
    "/docs/events",
    "/docs/events.css",
    "/docs/swagger-ui-bundle.js",
]


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


@pytest.mark.parametrize("path", ["/", *PATHS, "/healthz", "/readyz", "/metrics"])
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
    assert len(names) == 6
    for name in names:
        response = await client.get(f"/{name}")
        assert response.status_code == 200
        assert response.headers["x-content-type-options"] == "nosniff"


async def test_events_page_has_no_script(client: httpx.AsyncClient) -> None:
    """The page about the events has the policy of /docs, no script, no inline style, and no dead link."""
    page = await client.get("/docs/events")
    docs = await client.get("/docs")
    assert page.headers["content-type"] == "text/html; charset=utf-8"
    for name in ("content-security-policy", "referrer-policy", "cache-control"):
        assert page.headers[name] == docs.headers[name]
    assert re.search(r"<script|<style| style=| on[a-z]+=|//", page.text) is None
    addresses = {
        urljoin("/docs/events", each) for each in re.findall(r'href="([^#"]+)"', page.text)
    }
    assert {
        "/docs",
        "/asyncapi.json",
        *(f"/schemas/{name}.json" for name in EVENT_TYPES),
    } < addresses
    for address in addresses:
        assert (await client.get(address)).status_code == 200, address


@pytest.mark.parametrize(
    "accept",
    [
        "text/html",
        "text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8",
        "application/json;q=0.9, TEXT/HTML ; q=0.8",
        "text/html;q=0.01",
    ],
)
async def test_browsers_are_led_to_the_page(client: httpx.AsyncClient, accept: str) -> None:
    """GET and HEAD of / that accept HTML are redirected, relative to the request."""
    for method in ("GET", "HEAD"):
        response = await client.request(method, "/", headers={"Accept": accept})
        assert (response.status_code, response.headers["location"]) == (302, "docs")
        assert (response.headers["vary"], response.content) == ("Accept", b"")


@pytest.mark.parametrize(
    "accept", ["", "*/*", "application/json", "text/html;q=0", "text/html ; q=0.00", "text/htmlx"]
)
async def test_other_clients_find_nothing_at_the_root(
    client: httpx.AsyncClient, accept: str
) -> None:
    """GET of / is 404 for clients that do not name HTML, and its answer varies with Accept."""
    response = await client.get("/", headers={"Accept": accept})
    assert (response.status_code, response.json()["code"]) == (404, "not_found")
    assert response.json()["detail"] == "there is no /; see /openapi.json for what there is"
    assert response.headers["vary"] == "Accept"
