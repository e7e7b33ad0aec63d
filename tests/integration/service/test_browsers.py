"""CORS, and the methods HEAD and OPTIONS."""

import re

import pytest
from starlette.routing import Route

from tests.support.service.api import Api, Service, new_key

ORIGIN = "https://app.example.com"
ASKING = {"Origin": ORIGIN, "Access-Control-Request-Method": "POST"}
URL = "/v1/documents/doc_1"


async def test_cors_is_off_unless_configured(api: Api) -> None:
    """Without configured origins no response has CORS headers, and a preflight needs a key."""
    answer = await api.client.get(URL, headers={"Origin": ORIGIN})
    preflight = await api.client.options(URL, headers={**ASKING, "X-API-KEY": ""})
    assert preflight.status_code == 401
    for headers in (answer.headers, preflight.headers):
        assert not [name for name in headers if name.startswith("access-control")]


@pytest.mark.parametrize("origins", [ORIGIN, f"https://other.example, {ORIGIN}", "*"])
async def test_known_origin_may_call(database: str, origins: str) -> None:
    """For an allowed origin a preflight needs no key and counts; responses and refusals are readable."""
    async with Service(database, LINKS_CORS_ORIGINS=origins) as service:
        client = await service.client()
        preflight = await client.options(URL, headers=ASKING)
        assert (preflight.status_code, preflight.content) == (204, b"")
        assert preflight.headers["access-control-allow-origin"] == ORIGIN
        assert "PATCH" in preflight.headers["access-control-allow-methods"]
        assert "X-API-KEY" in preflight.headers["access-control-allow-headers"]
        assert "x-request-id" in preflight.headers
        for path in (URL, "/healthz"):
            answer = await client.get(path, headers={"Origin": ORIGIN})
            assert answer.status_code == (401 if path == URL else 200)
            assert answer.headers["access-control-allow-origin"] == ORIGIN
            assert answer.headers["vary"] == "Origin"
            assert "ETag" in answer.headers["access-control-expose-headers"]
        counted = (await client.get("/metrics")).text
        assert 'method="OPTIONS",route="none",status="204"' in counted


async def test_unknown_origin_may_not(database: str) -> None:
    """Another origin gets no CORS headers; a request without an origin is served."""
    async with Service(database, LINKS_CORS_ORIGINS=ORIGIN) as service:
        api = await service.api(await new_key(database))
        headers = {"Origin": "https://evil.example", "Access-Control-Request-Method": "POST"}
        for answer in (
            await api.client.options(URL, headers=headers),
            await api.client.get(URL, headers=headers),
            await api.client.get(URL),
        ):
            assert not [name for name in answer.headers if name.startswith("access-control")]
            assert answer.headers["vary"] == "Origin"
        assert (await api.client.post("/v1/documents", json={})).status_code == 201


async def test_options_and_head_behave_on_every_path(database: str) -> None:
    """OPTIONS lists the methods of a path; HEAD is GET without a body, or refused with the list."""
    async with Service(database) as service:
        api = await service.api(await new_key(database))
        paths = [route.path for route in service.app.routes if isinstance(route, Route)]
        for path in paths:
            url = re.sub(r"\{.*?\}", "x", path)
            options = await api.client.options(url)
            assert (options.status_code, options.content) == (204, b""), url
            allowed = options.headers["allow"].split(", ")
            head, get = await api.client.head(url), await api.client.get(url)
            assert head.status_code == get.status_code, url
            assert head.headers["content-type"] == get.headers["content-type"]
            assert head.content == b""
            assert (head.status_code == 405) is ("GET" not in allowed)
            assert ("HEAD" in allowed) is ("GET" in allowed)


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("POST", "/v1/documents/doc_1%2Flink"),
        ("POST", "/v1/documents/doc_1%2flinks"),
        ("GET", "/v1%2Fdocuments/doc_1"),
        ("GET", "/v1/documents%2Fdoc_1"),
        ("DELETE", "/v1/documents/..%2Fdocuments/doc_1"),
        ("GET", "/v1/documents/doc_1%2F"),
    ],
)
async def test_encoded_slash_names_no_path(api: Api, method: str, path: str) -> None:
    """An encoded slash in an id does not separate path segments: the answer is 404."""
    body = {"entity_type": "deal", "entity_id": "deal_1"} if method == "POST" else None
    answer = await api.client.request(method, path, json=body)
    assert (answer.status_code, answer.json()["code"]) == (404, "not_found")
    assert (await api.client.get(URL)).headers["etag"] == '"1"'
