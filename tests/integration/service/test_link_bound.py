"""A document has at most MAX_LINKS active links, whichever call makes them."""

import asyncio
from functools import partial
from typing import Any

import asyncpg
import httpx
import pytest

from service.core.values import MAX_LINKS
from tests.support.service.api import Api, persistently
from tests.support.service.large import fill
from tests.support.service.rows import everything
from tests.support.topic.subscriber import ACTIVE

URL = "/v1/documents/full"
NEW = "ship_1"
"""An entity that is not linked to the full document."""


@pytest.fixture
async def items(api: Api, connection: asyncpg.Connection) -> list[str]:
    """Return the items of the document `full`, which has MAX_LINKS links."""
    assert api.key  # its workspace is there
    return await fill(connection, "full", MAX_LINKS)


def refused(answer: httpx.Response) -> bool:
    """Whether the answer is the refusal that names the bound."""
    problem = answer.json()
    return (answer.status_code, problem["code"]) == (409, "conflict") and (
        f"{MAX_LINKS} is the most" in problem["detail"]
    )


CALLS: dict[str, tuple[str, str, dict[str, Any]]] = {
    "link": ("POST", f"{URL}/link", {"entity_type": "deal", "entity_id": "deal_1"}),
    "links": ("POST", f"{URL}/links", {"resource_id": NEW}),
    "add": ("POST", URL, {"category": "c", "resources": {"add": ["item_1", NEW]}}),
    "too few removed": (
        "POST", URL, {"resources": {"add": [NEW, "ship_2"], "remove": ["item_1", "item_1"]}},
    ),
    "not linked removed": ("POST", URL, {"resources": {"add": [NEW], "remove": ["ship_3"]}}),
    "atomic batch": (
        "POST", "/v1/links/batch",
        {"atomic": True, "operations": [{"op": "link", "document_id": "full", "resource_id": NEW}]},
    ),
}  # fmt: skip


@pytest.mark.parametrize("call", CALLS.values(), ids=CALLS)
async def test_full_document_takes_no_more(
    api: Api,
    connection: asyncpg.Connection,
    items: list[str],
    call: tuple[str, str, dict[str, Any]],
) -> None:
    """Each way of linking is refused with the bound, and nothing is written."""
    assert items
    rows = await everything(connection)
    method, path, body = call
    assert refused(await api.client.request(method, path, json=body))
    assert await everything(connection) == rows


async def test_full_document_is_changed_in_every_other_way(
    api: Api, connection: asyncpg.Connection, items: list[str]
) -> None:
    """Existing links are found, roles change, removed links make room, and a set stays within the bound."""
    existing = await api.add("full", "item_1")
    assert (existing.status_code, existing.json()["message"]) == (200, "Already linked")
    link_id = existing.json()["data"]["id"]
    role = await api.client.patch(f"{URL}/links/{link_id}", json={"role": "r"})
    swapped = await api.client.post(URL, json={"resources": {"add": [NEW], "remove": ["item_1"]}})
    full = await api.add("full", "item_1")
    unlinked = await api.client.delete(f"{URL}/links?resource_id={NEW}")
    restored = await api.add("full", "item_1")
    whole = await api.client.put(URL, json={"resources": [NEW, *items[1:]]})
    answers = [role, swapped, full, unlinked, restored, whole]
    assert [answer.status_code for answer in answers] == [200, 200, 409, 200, 200, 200]
    assert refused(full)
    assert len(await connection.fetch(ACTIVE)) == MAX_LINKS


async def test_batch_is_told_which_operation_was_too_many(
    api: Api, connection: asyncpg.Connection, items: list[str]
) -> None:
    """In a batch an unlink makes room for one link, and only the next link is refused."""
    assert items
    unlink = {"op": "unlink", "document_id": "full", "resource_id": "item_1"}
    links = [{"op": "link", "document_id": "full", "resource_id": f"ship_{n}"} for n in (1, 2)]
    answer = await api.client.post("/v1/links/batch", json={"operations": [unlink, *links]})
    outcomes = answer.json()["data"]
    assert [outcome["status"] for outcome in outcomes] == [200, 201, 409]
    assert f"{MAX_LINKS} is the most" in outcomes[2]["problem"]["detail"]
    assert len(await connection.fetch(ACTIVE)) == MAX_LINKS


async def test_callers_at_once_do_not_pass_the_bound(
    api: Api, connection: asyncpg.Connection
) -> None:
    """Of many concurrent links as many succeed as there is room for, in groups and alone."""
    await fill(connection, "full", MAX_LINKS - 5)
    singly = [persistently(partial(api.add, "full", f"ship_{n}")) for n in range(1, 11)]
    bodies = [{"resources": {"add": [f"ship_{n}"]}} for n in range(11, 21)]
    edits = [persistently(partial(api.client.post, URL, json=body)) for body in bodies]
    answers = await asyncio.gather(*singly, *edits)
    assert sum(answer.is_success for answer in answers) == 5
    assert all(answer.is_success or refused(answer) for answer in answers)
    assert len(await connection.fetch(ACTIVE)) == MAX_LINKS


async def test_long_history_is_no_full_document(api: Api, connection: asyncpg.Connection) -> None:
    """Removed links do not count: a document with many of them accepts new links."""
    await connection.execute("UPDATE documents SET version = $1", 10 * MAX_LINKS)
    assert [(await api.add("doc_1", f"ship_{n}")).status_code for n in (1, 2)] == [201, 201]
    edited = await api.client.post("/v1/documents/doc_1", json={"resources": {"add": ["ship_3"]}})
    assert edited.json()["data"]["linkages"] == {"shipment": 3}


async def test_document_over_the_bound_goes_on_working(
    api: Api, connection: asyncpg.Connection
) -> None:
    """A document that an earlier version made too large can be read, edited, deleted and restored."""
    await fill(connection, "full", MAX_LINKS + 100)
    assert refused(await api.add("full", NEW))
    swap = {"resources": {"add": [NEW], "remove": ["item_1"]}}
    assert refused(await api.client.post(URL, json=swap))
    edited = await api.client.post(URL, json={"category": "c", "resources": {"remove": ["item_1"]}})
    assert edited.json()["data"]["linkages"] == {"item": MAX_LINKS + 99}
    assert (await api.client.delete(URL)).status_code == 200
    restored = await api.client.post(f"{URL}/restore")
    assert len(restored.json()["changes"]["restored"]) == MAX_LINKS + 99
    read = await api.client.get(URL)
    assert read.json()["data"] == restored.json()["data"]
