"""No call keeps the event loop busy for more than 50 ms at once, because nobody else is served meanwhile."""

import asyncio
from collections.abc import Iterable

import asyncpg
import httpx
import msgspec
import pytest

from service.core.values import MAX_LINKS
from service.edge.calls.body import MAX_BYTES
from service.links.batch import MAX_OPERATIONS
from tests.support.service.api import Api
from tests.support.service.large import LongestStep, fill

MAX_STEP_S = 0.05
TRIES = 3
"""On a busy machine a step takes longer, so the best of several tries counts."""
URL = "/v1/documents/full"
SHIPMENTS = """
INSERT INTO entities (workspace_id, type, id)
SELECT w.id, 'shipment', 'ship_' || n FROM workspaces AS w, generate_series(21, $1::int) AS n
"""
JSON = {"Content-Type": "application/json"}


def filled(begin: bytes, items: Iterable[bytes], end: bytes) -> bytes:
    """Return a body of nearly 1 MiB: a beginning, items separated by commas, an end."""
    parts, size = [], len(begin) + len(end)
    for item in items:
        size += len(item) + 1
        if size > MAX_BYTES:
            break
        parts.append(item)
    return begin + b",".join(parts) + end


def same(item: bytes) -> list[bytes]:
    """Return more copies of an item than fit."""
    return [item] * (MAX_BYTES // len(item))


def numbered(item: bytes) -> Iterable[bytes]:
    """Yield items, each with its number in it."""
    return (item % number for number in range(MAX_BYTES))


IN_LIST = (b'{"metadata":{"a":[', b"]}}")
HOSTILE = {
    "large numbers": (filled(IN_LIST[0], same(b"1e300"), IN_LIST[1]), 413),
    "exact fractions": (filled(IN_LIST[0], same(b"1.2345678901234567e-300"), IN_LIST[1]), 413),
    "long whole numbers": (filled(IN_LIST[0], same(b"9" * 4300), IN_LIST[1]), 200),
    "whole numbers": (filled(IN_LIST[0], same(b"1"), IN_LIST[1]), 200),
    "empty texts": (filled(IN_LIST[0], same(b'""'), IN_LIST[1]), 200),
    "backslashes": (b'{"metadata":{"a":"' + b"\\\\" * (MAX_BYTES // 2 - 20) + b'"}}', 200),
    "names": (filled(b'{"metadata":{', numbered(b'"%d":1'), b"}}"), 200),
    "lists": (filled(IN_LIST[0], same(b"[]"), IN_LIST[1]), 400),
    "one level": (b'{"metadata":{"a":' + b"[" * 500_000 + b"]" * 500_000 + b"}}", 400),
    "not JSON at the end": (filled(IN_LIST[0], same(b"[]"), b"]}"), 400),
    "unknown fields": (filled(b"{", numbered(b'"f%d":1'), b"}"), 400),
    "some unknown fields": (
        b"{" + b",".join(b'"%d%b":1' % (n, b"x" * 90) for n in range(9_990)) + b"}", 400,
    ),
    "unknown numbers": (b'{"x":[' + b",".join([b"1.2345678901234567e-300"] * 9_990) + b"]}", 400),
    "a wrong kind": (filled(b'{"display_name":[', same(b"1e300"), b"]}"), 400),
    "resources": (filled(b'{"resources":[', numbered(b'"ship_%d"'), b"]}"), 400),
    "a wrong resource at the end": (filled(b'{"resources":[', numbered(b'"ship_%d"'), b",1]}"), 400),
    "entities": (filled(
        b'{"resources":[', numbered(b'{"entity_type":"deal","entity_id":"d%d"}'), b"]}"), 400,
    ),
    "fewer wrong at the end": (
        b'{"resources":[' + b",".join(b'"ship_%d"' % n for n in range(9_990)) + b",1]}", 400,
    ),
    "wrong prefixes": (b'{"resources":[' + b",".join([b'"nobody_%d"'] * MAX_LINKS) + b"]}", 400),
    "repeated names": (filled(b"{", same(b'"resources":["ship_1"]'), b"}"), 400),
    "numbers in a list of texts": (filled(b'{"resources":[', same(b"1"), b"]}"), 400),
}  # fmt: skip


async def longest_step(client: httpx.AsyncClient, *calls: httpx.Request) -> tuple[float, list[int]]:
    """Make the calls; return the longest step in seconds, and the statuses."""
    with LongestStep() as step:
        answers = [await asyncio.create_task(client.send(call)) for call in calls]
    return step.seconds, [answer.status_code for answer in answers]


@pytest.mark.parametrize(("body", "status"), HOSTILE.values(), ids=HOSTILE)
async def test_hostile_body(api: Api, body: bytes, status: int) -> None:
    """A body of 1 MiB that is expensive to decode is accepted or refused in short steps."""
    steps = []
    for _ in range(TRIES):
        call = api.client.build_request("PUT", "/v1/documents/doc_1", content=body, headers=JSON)
        seconds, statuses = await longest_step(api.client, call)
        assert statuses == [status]
        steps.append(seconds)
        if seconds < MAX_STEP_S:
            return
    pytest.fail(f"the event loop was busy for {min(steps):.3f} s at once")


def edits(**lists: list[str]) -> bytes:
    """Return a body that changes a document's links."""
    return msgspec.json.encode({"resources": lists})


def batch(op: str) -> bytes:
    """Return a full batch of links or unlinks of one document."""
    each = {"op": op, "document_id": "doc_1"}
    operations = [{**each, "resource_id": f"item_{n}"} for n in range(1, MAX_OPERATIONS + 1)]
    return msgspec.json.encode({"operations": operations})


async def test_calls_at_their_bounds(api: Api, connection: asyncpg.Connection) -> None:
    """Calls with the greatest allowed number of links are executed in short steps."""
    items = await fill(connection, "full", MAX_LINKS)
    await connection.execute(SHIPMENTS, MAX_LINKS)
    ships = [f"ship_{number}" for number in range(1, MAX_LINKS + 1)]
    made = {"resources": [{"entity_type": "item", "entity_id": i, "role": "r" * 64} for i in items]}
    calls = {
        "read": ("GET", URL, b""),
        "page": ("GET", f"{URL}/links?limit=100&page=50", b""),
        "keep all": ("PUT", URL, msgspec.json.encode({"resources": items})),
        "new roles": ("PUT", URL, msgspec.json.encode(made)),
        "remove all": ("POST", URL, edits(remove=items)),
        "add all": ("POST", URL, edits(add=items)),
        "set others": ("POST", URL, edits(set=ships)),
        "exchange all": ("POST", URL, edits(add=items, remove=ships)),
        "delete": ("DELETE", URL, b""),
        "restore": ("POST", f"{URL}/restore", b""),
        "create": ("POST", "/v1/documents", msgspec.json.encode({"resources": ships})),
        "link a batch": ("POST", "/v1/links/batch", batch("link")),
        "unlink a batch": ("POST", "/v1/links/batch", batch("unlink")),
    }
    steps: dict[str, list[float]] = {name: [] for name in calls}
    for _ in range(TRIES):
        for name, (method, url, body) in calls.items():
            call = api.client.build_request(method, url, content=body, headers=JSON)
            seconds, statuses = await longest_step(api.client, call)
            assert statuses in ([200], [201]), name
            steps[name].append(seconds)
        if all(min(seconds) < MAX_STEP_S for seconds in steps.values()):
            break
    assert {name: min(s) for name, s in steps.items() if min(s) >= MAX_STEP_S} == {}
