"""The examples on both vendors' pages, field by field."""

import re
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import asyncpg
import httpx
import pytest

from deploy.local import programs
from tests.support.service.api import new_key

CONTACT = "123e4567-e89b-12d3-a456-426614174000"
UUID7 = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-7[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}")
LINK_ID = re.compile(r"dlnk_[0-7][0-9a-hjkmnp-tv-z]{25}")
ENTITIES = {
    "contact": CONTACT,
    "deal": "deal_01HY1",
    "shipment": "ship_abc123",
    "fulfillment": "ful_def456",
    "asset": "ast_xyz789",
}


@pytest.fixture
async def client(database: str, tmp_path: Path) -> AsyncIterator[httpx.AsyncClient]:
    """Yield a client of a running service, without a key, with the documents and entities of the pages."""
    key = {"X-API-KEY": await new_key(database)}
    with programs.service(database, tmp_path) as service:
        async with httpx.AsyncClient(base_url=service.url) as client:
            for document in ("doc_01HY1", "dcmt_01j9abc123"):
                assert (
                    await client.put(f"/v1/documents/{document}", json={}, headers=key)
                ).is_success
            for entity_type, entity in ENTITIES.items():
                await client.put(f"/v1/entities/{entity_type}/{entity}", headers=key)
            yield client


def about_now(seconds: float) -> bool:
    """Whether the time is within the last two minutes."""
    return 0 <= datetime.now(UTC).timestamp() - seconds + 1 < 121


def check_common_headers(response: httpx.Response) -> None:
    """See that a response has the headers that the first page promises."""
    assert response.headers["content-type"] == "application/json"
    assert int(response.headers["x-ratelimit-remaining"]) < 1000
    assert response.headers["x-ratelimit-limit"] == "1000"
    assert about_now(int(response.headers["x-ratelimit-reset"]) - 60)
    assert response.headers["x-request-id"]


async def test_link_document_to_entity(client: httpx.AsyncClient, database: str) -> None:
    """The first page's call, its response, its rule of one link for a triple, and its errors."""
    headers = {"Authorization": f"Bearer {await new_key(database)}"}
    url = "/v1/documents/doc_01HY1/link"
    body = {"entity_type": "contact", "entity_id": CONTACT, "role": "signed"}
    made = await client.post(url, json=body, headers=headers)
    assert made.status_code == 201
    check_common_headers(made)
    data = made.json()["data"]
    assert made.json() == {"data": data}
    assert data == body | {
        "link_id": data["link_id"],
        "document_id": "doc_01HY1",
        "created_at": data["created_at"],
    }
    assert LINK_ID.fullmatch(data["link_id"])
    assert data["created_at"].endswith("Z")
    assert about_now(datetime.fromisoformat(data["created_at"]).timestamp())
    again = await client.post(url, json=body | {"role": "evidence"}, headers=headers)
    assert (again.status_code, again.json()) == (200, made.json())
    without_role = {"entity_type": "deal", "entity_id": "deal_01HY1"}
    deal = await client.post(url, json=without_role, headers=headers)
    assert (deal.status_code, deal.json()["data"]["role"]) == (201, None)


async def test_errors_of_link(client: httpx.AsyncClient, database: str) -> None:
    """Each row of the first page's table of errors."""
    url = "/v1/documents/doc_01HY1/link"
    good = {"entity_type": "deal", "entity_id": "deal_01HY1"}
    key = await new_key(database)
    reader = await new_key(database, scopes=["read:documents"])
    slow = await new_key(database, rate_limit="1/day")
    cases: list[tuple[int, str, str, dict[str, Any], str]] = [
        (400, "validation_error", url, good | {"entity_type": "invoice"}, key),
        (400, "validation_error", url, {"entity_type": "deal"}, key),
        (401, "invalid_key", url, good, "wbk_your_api_key_here"),
        (403, "insufficient_permissions", url, good, reader),
        (404, "not_found", "/v1/documents/doc_none/link", good, key),
        (404, "not_found", url, good | {"entity_id": "deal_none"}, key),
        (201, "", url, good, slow),
        (429, "rate_limited", url, good, slow),
    ]
    for status, code, path, body, bearer in cases:
        headers = {"Authorization": f"Bearer {bearer}"}
        response = await client.post(path, json=body, headers=headers)
        assert (response.status_code, response.json().get("code", "")) == (status, code)


async def test_resource_links(client: httpx.AsyncClient, database: str) -> None:
    """The second page's calls in order: link, link again, list, unlink, restore."""
    client.headers["X-API-KEY"] = await new_key(database)
    url = "/v1/documents/dcmt_01j9abc123/links"
    made = await client.post(url, json={"resource_id": "ship_abc123"})
    data = made.json()["data"]
    listed = {
        "id": data["id"],
        "resource": {"id": "ship_abc123", "type": "shipment"},
        "created_at": data["created_at"],
    }
    linked = listed | {"document": {"id": "dcmt_01j9abc123"}, "restored": False}
    assert (made.status_code, made.json()) == (201, {"data": linked, "message": "Document linked"})
    check_common_headers(made)
    assert UUID7.fullmatch(data["id"])
    assert isinstance(data["created_at"], int)
    assert about_now(data["created_at"])

    again = await client.post(url, json={"resource_id": "ship_abc123"})
    assert (again.status_code, again.json()) == (200, {"data": linked, "message": "Already linked"})

    page = await client.get(f"{url}?resource_type=shipment&page=1&limit=25")
    assert (page.status_code, page.json()) == (
        200,
        {
            "data": [listed],
            "pagination": {"page": 1, "limit": 25, "total": 1},
            "message": "1 link retrieved",
        },
    )

    gone = await client.delete(f"{url}/{data['id']}")
    assert (gone.status_code, gone.json()) == (
        200,
        {"data": {"id": data["id"]}, "message": "Document unlinked"},
    )
    assert (await client.get(url)).json()["pagination"]["total"] == 0

    back = await client.post(url, json={"resource_id": "ship_abc123"})
    assert (back.status_code, back.json()) == (
        200,
        {"data": linked | {"restored": True}, "message": "Link restored"},
    )


async def test_resource_types_are_inferred(client: httpx.AsyncClient, database: str) -> None:
    """Each prefix in the second page's table gives its type, without a field for it."""
    client.headers["X-API-KEY"] = await new_key(database)
    prefixes = {"ful_": "fulfillment", "ship_": "shipment", "ast_": "asset",
                "mfst_": "manifest", "item_": "item"}  # fmt: skip
    for prefix, entity_type in prefixes.items():
        await client.put(f"/v1/entities/{entity_type}/{prefix}1")
        made = await client.post(
            "/v1/documents/doc_01HY1/links", json={"resource_id": f"{prefix}1"}
        )
        assert made.json()["data"]["resource"] == {"id": f"{prefix}1", "type": entity_type}


async def test_links_as_part_of_an_update(client: httpx.AsyncClient, database: str) -> None:
    """The second page's three forms of `resources`, with its rules."""
    client.headers["X-API-KEY"] = await new_key(database)
    url = "/v1/documents/doc_01HY1"

    async def update(**resources: list[str]) -> tuple[int, set[str]]:
        response = await client.post(url, json={"resources": resources})
        listed = (await client.get(f"{url}/links")).json()["data"]
        return response.status_code, {link["resource"]["id"] for link in listed}

    assert await update(add=["ship_abc123", "ful_def456"]) == (200, {"ship_abc123", "ful_def456"})
    assert await update(add=["ast_xyz789"]) == (200, {"ship_abc123", "ful_def456", "ast_xyz789"})
    assert await update(remove=["ast_xyz789"]) == (200, {"ship_abc123", "ful_def456"})
    assert await update(set=["ship_abc123"]) == (200, {"ship_abc123"})
    assert await update(set=["ful_def456"], add=["ast_xyz789"]) == (400, {"ship_abc123"})
    assert await update(add=["ast_xyz789"], remove=["ast_xyz789"]) == (400, {"ship_abc123"})
    again = await client.post(url, json={"resources": {"add": ["ful_def456"]}})
    assert len(again.json()["changes"]["restored"]) == 1
    connection = await asyncpg.connect(database)
    assert await connection.fetchval("SELECT count(*) FROM document_links") == 3
    await connection.close()
