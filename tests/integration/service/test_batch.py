"""Batches: many links and unlinks in one transaction, each with its own outcome, or all or nothing."""

import json
import re
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import asyncpg
import httpx
import pytest

from deploy.local.postgres import PostgresServer
from deploy.local.programs import migrate
from tests.support.service.api import Api, seed, serving
from tests.support.service.rows import everything
from tests.support.topic.subscriber import check_outbox, read_outbox
from tests.support.waiting import until

URL = "/v1/links/batch"

ENTRY = re.compile(r"^(\d+)\|LOG: +(.*?)(?=^\d+\||\Z)", re.MULTILINE | re.DOTALL)
WRITE = "SELECT save_changes("
WRITE_PATH = ("lock_scopes(", "lock_links(", "save_changes(")


def link(number: int, resource_id: str = "ship_1") -> dict[str, Any]:
    """Return the operation that links a document."""
    return {"op": "link", "document_id": f"doc_{number}", "resource_id": resource_id}


def unlink(number: int, resource_id: str = "ship_1") -> dict[str, Any]:
    """Return the operation that unlinks a document."""
    return {**link(number, resource_id), "op": "unlink"}


async def apply(api: Api, *operations: dict[str, Any], **rest: object) -> httpx.Response:
    """Send a batch."""
    return await api.client.post(URL, json={"operations": list(operations), **rest})


BAD = {
    "unknown document": (404, link(99)),
    "unknown entity": (404, link(3, "ship_99")),
    "not linked": (404, unlink(3)),
    "unknown prefix": (400, link(3, "truck_1")),
    "both forms": (400, {**link(3), "entity_type": "deal", "entity_id": "deal_1"}),
    "neither form": (400, {"op": "link", "document_id": "doc_3"}),
    "half a form": (400, {"op": "link", "document_id": "doc_3", "entity_type": "deal"}),
}


@pytest.mark.parametrize(("status", "bad"), BAD.values(), ids=BAD)
async def test_one_bad_operation_fails_alone(
    api: Api, connection: asyncpg.Connection, status: int, bad: dict[str, Any]
) -> None:
    """The other operations are executed, and the failed one's outcome has the error."""
    answer = await apply(api, link(1), bad, link(2))
    assert answer.status_code == 200
    assert answer.json()["message"] == "2 of 3 operations applied"
    outcomes = answer.json()["data"]
    assert [outcome["status"] for outcome in outcomes] == [201, status, 201]
    assert [outcome["index"] for outcome in outcomes] == [0, 1, 2]
    assert outcomes[1]["problem"]["status"] == status
    assert "index" not in outcomes[1]["problem"]
    assert (len(await api.links("doc_1")), len(await api.links("doc_2"))) == (1, 1)
    await check_outbox(connection)


@pytest.mark.parametrize(("status", "bad"), BAD.values(), ids=BAD)
@pytest.mark.parametrize("before", [0, 2])
async def test_atomic_batch_is_all_or_nothing(
    api: Api, connection: asyncpg.Connection, status: int, bad: dict[str, Any], before: int
) -> None:
    """The answer is the first failure with its index, and nothing is written."""
    rows = await everything(connection)
    good = [link(1), link(2)][:before]
    refused = await apply(api, *good, bad, atomic=True)
    assert (refused.status_code, refused.json()["status"]) == (status, status)
    assert refused.json()["index"] == before
    assert await everything(connection) == rows


async def test_atomic_batch_without_a_failure(api: Api, connection: asyncpg.Connection) -> None:
    """All operations are executed in order."""
    done = await apply(api, link(1), link(2), unlink(1), atomic=True)
    assert [outcome["status"] for outcome in done.json()["data"]] == [201, 201, 200]
    assert (await api.links("doc_1"), len(await api.links("doc_2"))) == ([], 1)
    await check_outbox(connection)


async def test_operations_see_those_before_them(api: Api, connection: asyncpg.Connection) -> None:
    """Several operations on one link are executed in order, each with its event."""
    deal = {"op": "link", "document_id": "doc_1", "entity_type": "deal", "entity_id": "deal_1"}
    done = await apply(
        api,
        {**deal, "role": "draft"},
        {**deal, "role": "signed"},
        {**deal, "op": "unlink"},
        {**deal, "op": "unlink"},
        {**deal, "role": "signed"},
    )
    outcomes = done.json()["data"]
    assert [outcome["status"] for outcome in outcomes] == [201, 200, 200, 404, 200]
    assert [outcome.get("restored") for outcome in outcomes] == [False, False, False, None, True]
    shown = [outcome["link"] for outcome in outcomes if "link" in outcome]
    assert [each["role"] for each in shown] == ["draft", "draft", "draft", "signed"]
    assert [each["deleted_at"] is None for each in shown] == [True, True, False, True]
    assert len({each["id"] for each in shown}) == 1
    events = [json.loads(value) for value in await read_outbox(connection)]
    assert [event["type"] for event in events] == [
        "document.linked",
        "document.unlinked",
        "document.restored",
    ]
    assert {event["data"]["cause"] for event in events} == {"batch"}
    assert shown[3] == events[2]["data"]["link"]
    await check_outbox(connection)


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({"operations": []}, "operations"),
        ({"operations": [link(1)] * 501}, "operations"),
        ({"operations": [{**link(1), "op": "relink"}]}, "operations[0].op"),
        ({"operations": [link(1), {**link(1), "rolle": "x"}]}, "operations[1].rolle"),
        ({"operations": [link(1)], "atomic": "yes"}, "atomic"),
        ({}, "operations"),
    ],
)
async def test_malformed_batch_is_refused_as_a_whole(
    api: Api, connection: asyncpg.Connection, body: dict[str, Any], field: str
) -> None:
    """A body that is not a batch of 1 to 500 operations is 400, which names the wrong field."""
    rows = await everything(connection)
    answer = await api.client.post(URL, json=body)
    assert answer.status_code == 400
    assert [error["field"] for error in answer.json()["errors"]] == [field]
    assert await everything(connection) == rows


async def test_batch_that_changes_nothing_writes_nothing(
    api: Api, connection: asyncpg.Connection
) -> None:
    """Existing links that are linked, and missing ones that are unlinked, write no row."""
    await apply(api, link(1))
    rows = await everything(connection)
    answer = await apply(api, link(1), unlink(2), link(3, "truck_1"))
    assert [outcome["status"] for outcome in answer.json()["data"]] == [200, 404, 400]
    only_bad = await apply(api, link(3, "truck_1"))
    assert only_bad.json()["message"] == "0 of 1 operation applied"
    assert await everything(connection) == rows


@pytest.fixture
async def logged() -> AsyncIterator[tuple[Api, Path]]:
    """Yield a service on a Postgres that logs statements with their session, and the log."""
    settings = {"log_statement": "all", "log_line_prefix": "%p|", "fsync": "off"}
    with PostgresServer(settings=settings) as postgres:
        migrate(postgres.dsn())
        async with serving(postgres.dsn(), LINKS_POOL_SIZE="1") as api:
            connection = await asyncpg.connect(postgres.dsn())
            await seed(connection, 500, 500)
            await connection.close()
            yield api, postgres.log


async def test_a_batch_of_500_takes_three_statements(logged: tuple[Api, Path]) -> None:
    """Between BEGIN and COMMIT the writing session sends three statements: scopes, lock and read, write."""
    api, log = logged
    headers = {"Idempotency-Key": "first"}
    first = {"operations": [link(n, f"item_{n}") for n in range(1, 102)]}
    await api.client.post(
        URL, json=first, headers=headers
    )  # asyncpg looks up types, once a session
    operations = [link(n, f"ship_{501 - n}") for n in range(1, 501)]
    done = await api.client.post(
        URL, json={"operations": operations}, headers={"Idempotency-Key": "batch"}
    )
    assert done.json()["message"] == "500 of 500 operations applied"

    async def committed() -> list[str]:
        entries = ENTRY.findall(log.read_text())
        writer = next(session for session, text in reversed(entries) if WRITE in text)
        ours = [text for session, text in entries if session == writer]
        writing = max(n for n, text in enumerate(ours) if WRITE in text)
        begin = max(n for n, text in enumerate(ours[:writing]) if "BEGIN" in text)
        return ours[begin + 1 : writing + 2]

    *statements, last = await until(committed)
    assert last == "statement: COMMIT\n"
    assert [name in text for name, text in zip(WRITE_PATH, statements, strict=True)] == [True] * 3
