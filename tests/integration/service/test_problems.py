"""Errors over HTTP: each is a problem with its code, its status and the request's id."""

from typing import Any, NamedTuple

import asyncpg
import httpx
import pytest

from tests.support.service.api import Api

LINK = "/v1/documents/doc_1/link"
LINKS = "/v1/documents/doc_1/links"
JSON = {"Content-Type": "application/json"}
GOOD = b'{"resource_id": "ship_1"}'


class Bad(NamedTuple):
    """A request that is refused, with its code and status."""

    status: int
    code: str
    method: str
    path: str
    body: bytes | None = None
    headers: dict[str, str] = JSON


BAD = {
    "unknown path": Bad(404, "not_found", "GET", "/v1/nothing"),
    "unknown path outside": Bad(404, "not_found", "GET", "/nothing"),
    "slash too many": Bad(404, "not_found", "POST", f"{LINK}/"),
    "public path, slash too many": Bad(404, "not_found", "GET", "/healthz/"),
    "unknown document": Bad(404, "not_found", "POST", "/v1/documents/none/links", GOOD),
    "unknown entity": Bad(404, "not_found", "POST", LINKS, b'{"resource_id": "ship_none"}'),
    "unknown link": Bad(404, "not_found", "DELETE", f"{LINKS}/dlnk_{'0' * 26}"),
    "list of an unknown document": Bad(404, "not_found", "GET", "/v1/documents/none/links"),
    "method": Bad(405, "method_not_allowed", "PATCH", LINKS, b"{}"),
    "method of a public path": Bad(405, "method_not_allowed", "POST", "/healthz"),
    "odd method": Bad(405, "method_not_allowed", "BREW", LINK),
    "too large": Bad(413, "payload_too_large", "POST", LINKS, b" " * (1 << 20) + GOOD),
    "no content type": Bad(415, "unsupported_media_type", "POST", LINKS, GOOD, {}),
    "form": Bad(
        415,
        "unsupported_media_type",
        "POST",
        LINKS,
        b"resource_id=ship_1",
        {"Content-Type": "application/x-www-form-urlencoded"},
    ),
    "no body": Bad(400, "validation_error", "POST", LINKS, b""),
    "broken JSON": Bad(400, "validation_error", "POST", LINKS, b'{"resource_id": "ship_1"'),
    "broken UTF-8": Bad(400, "validation_error", "POST", LINKS, b'{"resource_id": "ship_\xff"}'),
    "NUL": Bad(400, "validation_error", "POST", LINKS, b'{"resource_id": "ship_\\u0000"}'),
    "NUL in a role": Bad(
        400,
        "validation_error",
        "POST",
        LINK,
        b'{"entity_type":"deal","entity_id":"deal_1","role":"a\\u0000"}',
    ),
    "lone surrogate": Bad(
        400,
        "validation_error",
        "POST",
        LINK,
        b'{"entity_type":"deal","entity_id":"deal_1","role":"\\ud800"}',
    ),
    "not an object": Bad(400, "validation_error", "POST", LINKS, b"[]"),
    "nested": Bad(400, "validation_error", "POST", LINKS, b"[" * 500_000),
    "unknown field": Bad(
        400, "validation_error", "POST", LINKS, b'{"resource_id": "ship_1", "role": "x"}'
    ),
    "prefix alone": Bad(400, "validation_error", "POST", LINKS, b'{"resource_id": "ship_"}'),
    "unknown prefix": Bad(400, "validation_error", "POST", LINKS, b'{"resource_id": "deal_1"}'),
    "type of the other vendor": Bad(
        400, "validation_error", "POST", LINK, b'{"entity_type":"shipment","entity_id":"ship_1"}'
    ),
    "missing entity": Bad(400, "validation_error", "POST", LINK, b'{"entity_type":"deal"}'),
    "document id": Bad(400, "validation_error", "POST", "/v1/documents/_x/links", GOOD),
    "document id in other letters": Bad(
        400, "validation_error", "POST", "/v1/documents/%C3%A9/links", GOOD
    ),
    "broken document id": Bad(400, "validation_error", "POST", "/v1/documents/%ff/links", GOOD),
    "link id": Bad(400, "validation_error", "DELETE", f"{LINKS}/dlnk_x"),
    "page": Bad(400, "validation_error", "GET", f"{LINKS}?page=0"),
    "page too far": Bad(400, "validation_error", "GET", f"{LINKS}?page=99999999999999999999"),
    "limit": Bad(400, "validation_error", "GET", f"{LINKS}?limit=101"),
    "no number": Bad(400, "validation_error", "GET", f"{LINKS}?limit=ten"),
    "unknown parameter": Bad(400, "validation_error", "GET", f"{LINKS}?resource=1"),
    "parameter twice": Bad(400, "validation_error", "GET", f"{LINKS}?page=1&page=2"),
    "unknown type": Bad(400, "validation_error", "GET", f"{LINKS}?resource_type=car"),
    "broken query": Bad(400, "validation_error", "GET", f"{LINKS}?resource_id=%ff"),
    "NUL in the query": Bad(400, "validation_error", "GET", f"{LINKS}?resource_id=%00"),
    "unlink without a resource": Bad(400, "validation_error", "DELETE", LINKS),
    "metadata with NUL": Bad(
        400, "validation_error", "PUT", "/v1/documents/d", b'{"metadata": {"a": "\\u0000"}}'
    ),
    "metadata with NUL in a name": Bad(
        400, "validation_error", "PUT", "/v1/documents/d", b'{"metadata": {"\\u0000": 1}}'
    ),
}


async def send(api: Api, bad: Bad) -> httpx.Response:
    """Send the request."""
    return await api.client.request(
        bad.method, bad.path, content=bad.body, headers={**bad.headers, "X-Request-ID": "mine"}
    )


@pytest.mark.parametrize("bad", BAD.values(), ids=BAD)
async def test_refusal_is_a_problem(api: Api, connection: asyncpg.Connection, bad: Bad) -> None:
    """Status, code and content type are right, the request id is returned, and nothing is written."""
    response = await send(api, bad)
    assert (response.status_code, response.json()["code"]) == (bad.status, bad.code)
    assert response.headers["content-type"] == "application/problem+json"
    assert response.headers["x-request-id"] == "mine"
    check_shape(response.json(), bad)
    assert await connection.fetchval("SELECT count(*) FROM document_links") == 0


def check_shape(problem: dict[str, Any], bad: Bad) -> None:
    """See that the problem has the fields of RFC 9457 and the service's own, and no others."""
    fields = {"type", "title", "status", "detail", "code", "request_id"}
    assert fields <= set(problem) <= fields | {"errors"}
    assert (problem["status"], problem["request_id"]) == (bad.status, "mine")
    assert ("errors" in problem) == (bad.status == 400)
    for error in problem.get("errors", ()):
        assert set(error) == {"field", "message"}
        assert error["message"]


@pytest.mark.parametrize(
    ("path", "allowed"),
    [
        (LINK, {"POST", "OPTIONS"}),
        (LINKS, {"GET", "HEAD", "POST", "DELETE", "OPTIONS"}),
        ("/healthz", {"GET", "HEAD", "OPTIONS"}),
    ],
)
async def test_405_says_what_is_allowed(api: Api, path: str, allowed: set[str]) -> None:
    """405 and OPTIONS have the path's methods in Allow."""
    for method, status in (("BREW", 405), ("OPTIONS", 204)):
        response = await api.client.request(method, path)
        assert response.status_code == status
        assert set(response.headers["allow"].split(", ")) == allowed


async def test_every_wrong_field_is_named(api: Api) -> None:
    """All wrong fields are named; an unknown one with the nearest field."""
    body = {"entity_type": "car", "role": "x" * 65, "entity": "deal_1"}
    problem = (await api.client.post(LINK, json=body)).json()
    assert {error["field"] for error in problem["errors"]} == {
        "entity_type", "entity_id", "role", "entity",
    }  # fmt: skip


async def test_head_is_get_without_its_body(api: Api) -> None:
    """HEAD has the headers of GET, for successes and problems."""
    for path in (LINKS, "/v1/documents/none/links"):
        got, head = await api.client.get(path), await api.client.head(path)
        assert (head.status_code, head.content) == (got.status_code, b"")
        assert head.headers["content-length"] == str(len(got.content))
