"""The witness of each write: after a lost COMMIT it proves the outcome."""

from collections.abc import AsyncIterator
from typing import NamedTuple

import asyncpg
import httpx
import pytest

from tests.support.faults.commit import CommitProxy, Fault
from tests.support.service.api import Api, new_key, seed, serving
from tests.support.topic.subscriber import check_outbox

DOCUMENT = "/v1/documents/doc_1"
SHIP = "/v1/entities/shipment/ship_1"
AGE = "UPDATE idempotency_keys SET created_at = created_at - interval '24 hours 1 second'"
KEYED = {"Idempotency-Key": "k"}
FAULTS: list[Fault] = ["command lost", "answer lost"]


class Write(NamedTuple):
    """A call that writes, the calls before it, and the query of what it wrote."""

    method: str
    path: str
    body: object = None
    before: tuple[tuple[str, str, object], ...] = ()
    look: str = (
        "SELECT display_name, revision, deleted_at IS NULL FROM documents WHERE id = 'doc_1'"
    )


NEW = "SELECT id FROM documents WHERE id = 'new'"
ENTITY = "SELECT count(*), count(deleted_at) FROM entities WHERE id IN ('ship_1', 'ship_new')"
LINK = ("POST", f"{DOCUMENT}/links", {"resource_id": "ship_1"})
WRITES = {
    "create": Write("POST", "/v1/documents", {"id": "new"}, look=NEW),
    "put": Write("PUT", DOCUMENT, {"display_name": "A"}),
    "update": Write("POST", DOCUMENT, {"display_name": "A"}),
    "update with a link": Write("POST", DOCUMENT, {"resources": {"add": ["ship_1"]}}),
    "delete a document": Write("DELETE", DOCUMENT),
    "delete a linked document": Write("DELETE", DOCUMENT, before=(LINK,)),
    "restore": Write("POST", f"{DOCUMENT}/restore", before=(("DELETE", DOCUMENT, None),)),
    "restore what is there": Write("POST", f"{DOCUMENT}/restore"),
    "link": Write(*LINK),
    "link again": Write(*LINK, before=(LINK,)),
    "unlink": Write("DELETE", f"{DOCUMENT}/links?resource_id=ship_1", before=(LINK,)),
    "an empty batch": Write(
        "POST", "/v1/links/batch", {"operations": [{"op": "link", "document_id": "doc_1"}]}
    ),
    "register": Write("PUT", "/v1/entities/shipment/ship_new", look=ENTITY),
    "register again": Write("PUT", SHIP, look=ENTITY),
    "revive": Write("PUT", SHIP, before=(("DELETE", SHIP, None),), look=ENTITY),
    "delete an entity": Write("DELETE", SHIP, look=ENTITY),
    "delete a linked entity": Write("DELETE", SHIP, before=(LINK,), look=ENTITY),
}  # fmt: skip

NOTHING_TO_WRITE = {"restore what is there", "an empty batch", "register again"}
"""Calls that commit nothing without a key. (A link is tried by a statement that is a transaction.)"""


@pytest.fixture
async def proxy(database: str) -> AsyncIterator[CommitProxy]:
    """Yield a proxy that breaks connections at COMMIT."""
    async with CommitProxy(database) as proxy:
        yield proxy


@pytest.fixture
async def api(proxy: CommitProxy, connection: asyncpg.Connection) -> AsyncIterator[Api]:
    """Yield a client of a service behind the proxy."""
    async with serving(proxy.dsn) as api:
        await seed(connection, 2, 2)
        yield api


async def make(api: Api, write: Write, headers: dict[str, str]) -> httpx.Response:
    """Make the call."""
    headers = {"X-API-KEY": api.key, **headers}
    return await api.client.request(write.method, write.path, json=write.body, headers=headers)


async def prepared(
    api: Api, connection: asyncpg.Connection, dsn: str, name: str, workspace: str
) -> Api:
    """Make the calls before the write in a new workspace; return its client."""
    own = Api(api.client, await new_key(dsn, workspace))
    await seed(connection, 2, 2, workspace)
    for method, path, body in WRITES[name].before:
        assert (await make(own, Write(method, path, body), {})).is_success
    return own


async def written(connection: asyncpg.Connection, name: str, workspace: str) -> list[tuple[object]]:
    """Return the rows that the write has changed in the workspace."""
    rows = await connection.fetch(
        f"{WRITES[name].look} AND workspace_id = (SELECT id FROM workspaces WHERE name = $1)",
        workspace,
    )
    return [tuple(row) for row in rows]


@pytest.mark.parametrize("keyed", [False, True], ids=["without a key", "with a key"])
@pytest.mark.parametrize("fault", FAULTS)
async def test_a_lost_commit_changes_no_answer(
    api: Api, proxy: CommitProxy, connection: asyncpg.Connection, *, fault: Fault, keyed: bool
) -> None:
    """Status, answer and rows of each write are the same as without the fault."""
    headers = KEYED if keyed else {}
    for name, write in WRITES.items():
        twin = await prepared(api, connection, proxy.dsn, name, f"{name}, undisturbed")
        own = await prepared(api, connection, proxy.dsn, name, name)
        expected = await make(twin, write, headers)
        proxy.break_next(fault)
        answer = await make(own, write, headers)
        proxy.break_next(None)
        assert answer.status_code == expected.status_code, name
        assert answer.json().keys() == expected.json().keys()
        rows = await written(connection, name, name)
        assert rows == await written(connection, name, f"{name}, undisturbed"), name
        if keyed:
            assert "idempotent-replayed" not in answer.headers
            assert (await make(own, write, headers)).content == answer.content
    assert proxy.broken == len(WRITES) - (0 if keyed else len(NOTHING_TO_WRITE))
    assert proxy.carried_out == (proxy.broken if fault == "answer lost" else 0)
    await check_outbox(connection)


@pytest.mark.parametrize("fault", FAULTS)
@pytest.mark.parametrize("method", ["PUT", "POST"])
async def test_an_expired_reply_proves_nothing(
    api: Api, proxy: CommitProxy, connection: asyncpg.Connection, method: str, fault: Fault
) -> None:
    """A key that is used again after 24 hours, before its reply was deleted, writes again."""
    old = Write(method, DOCUMENT, {"display_name": "A"})
    assert (await make(api, old, KEYED)).is_success
    await connection.execute(AGE)
    assert (await make(api, Write("PUT", DOCUMENT, {"display_name": "B"}), {})).is_success
    proxy.break_next(fault)
    answer = await make(api, old, KEYED)
    assert (proxy.broken, proxy.carried_out) == (1, fault == "answer lost")
    assert answer.status_code == 200
    assert "idempotent-replayed" not in answer.headers
    assert answer.json()["data"]["display_name"] == "A"
    assert (await api.client.get(DOCUMENT)).json()["data"]["display_name"] == "A"


async def test_write_without_a_key_stores_no_reply(
    api: Api, connection: asyncpg.Connection
) -> None:
    """Without a key the document's row is the witness, and no reply is stored."""
    assert (await make(api, WRITES["update"], {})).is_success
    assert await connection.fetchval("SELECT count(*) FROM idempotency_keys") == 0
