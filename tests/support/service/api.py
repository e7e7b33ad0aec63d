"""The service in this process, as callers see it, with a workspace and a key for one test."""

from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any, NamedTuple, Self

import asyncpg
import httpx

from service.app import build
from service.settings import read_settings
from service.store.database import Database
from service.store.keys import create_key
from service.tracing import Tracing
from tests.support.waiting import until

BOTH_SCOPES = ("read:documents", "write:documents")
GENEROUS = "1000000/minute"

# The entities are a minute old: if the answer to a link is lost, and its entity was made in the last seconds,
# the service cannot always find out whether the link was written (service/store/writing/witness.py).
SEED = """
WITH w AS (SELECT id FROM workspaces WHERE name = $1),
d AS (
    INSERT INTO documents (workspace_id, id)
    SELECT w.id, 'doc_' || n FROM w, generate_series(1, $2::int) AS n
)
INSERT INTO entities (workspace_id, type, id, created_at)
SELECT w.id, t.type, t.prefix || n, now() - interval '1 minute'
FROM w, generate_series(1, $3::int) AS n,
    (VALUES ('deal', 'deal_'), ('shipment', 'ship_'), ('item', 'item_')) AS t (type, prefix)
"""


class Link(NamedTuple):
    """The arguments of a link call besides the document."""

    entity_type: str
    entity_id: str
    role: str | None = None


class Api:
    """A client with a key; its methods are shorthands of the calls."""

    def __init__(self, client: httpx.AsyncClient, key: str) -> None:
        self.client = client
        self.key = key

    async def link(
        self, document: str, link: Link, headers: dict[str, str] | None = None
    ) -> httpx.Response:
        """Link an entity by its type and id."""
        body = link._asdict() if link.role is not None else link._asdict() | {"role": None}
        return await self.client.post(
            f"/v1/documents/{document}/link", json=body, headers=headers or {}
        )

    async def add(
        self, document: str, resource_id: str, headers: dict[str, str] | None = None
    ) -> httpx.Response:
        """Link a resource by its id, whose prefix tells the type."""
        return await self.client.post(
            f"/v1/documents/{document}/links",
            json={"resource_id": resource_id},
            headers=headers or {},
        )

    async def unlink(self, document: str, link_id: str) -> httpx.Response:
        """Remove a link by its id."""
        return await self.client.delete(f"/v1/documents/{document}/links/{link_id}")

    async def links(self, document: str, **query: str | int) -> list[dict[str, Any]]:
        """Return the document's active links, as listed."""
        response = await self.client.get(f"/v1/documents/{document}/links", params=query)
        assert response.status_code == 200, response.text
        data: list[dict[str, Any]] = response.json()["data"]
        return data


class Service:
    """The service's app with its lifespan, as a context manager."""

    def __init__(self, dsn: str, traces: Tracing | None = None, /, **settings: str) -> None:
        self.dsn = dsn
        environment = {"DATABASE_URL": dsn, "LINKS_RATE_LIMIT": GENEROUS, **settings}
        self.app = build(read_settings(environment), traces=traces)
        self._stack = AsyncExitStack()

    async def __aenter__(self) -> Self:
        await self._stack.enter_async_context(self.app.router.lifespan_context(self.app))
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._stack.aclose()

    async def client(self, **headers: str) -> httpx.AsyncClient:
        """Return a client that sends these headers; it is closed with the service."""
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        transport = httpx.ASGITransport(app=self.app)
        return await self._stack.enter_async_context(
            httpx.AsyncClient(transport=transport, base_url="http://test", headers=named)
        )

    async def api(self, key: str) -> Api:
        """Return a client with that key."""
        return Api(await self.client(x_api_key=key), key)


async def persistently(call: Callable[[], Awaitable[httpx.Response]]) -> httpx.Response:
    """Repeat a call while its answer is 503 and says that nothing was written.

    On a busy machine a lock may be held for longer than a call waits for it.
    """

    async def answer() -> httpx.Response | None:
        response = await call()
        if response.status_code != 503:
            return response
        assert "nothing was written" in response.json()["detail"], response.text
        return None

    response = await until(answer)
    assert response is not None
    return response


@asynccontextmanager
async def serving(dsn: str, **settings: str) -> AsyncIterator[Api]:
    """Run a service; yield a client with a new key of the workspace `test`."""
    async with Service(dsn, **settings) as service:
        yield await service.api(await new_key(dsn))


async def new_key(
    dsn: str,
    workspace: str = "test",
    *,
    scopes: Sequence[str] = BOTH_SCOPES,
    rate_limit: str | None = None,
) -> str:
    """Make a key, and its workspace if it is new."""
    async with Database(dsn, pool_size=1) as database:
        return await create_key(
            database, workspace, scopes=scopes, rate_limit=rate_limit, expires_at=None
        )


async def seed(
    connection: asyncpg.Connection, documents: int, entities: int, workspace: str = "test"
) -> None:
    """Make documents doc_1 … and, of each of three types, entities deal_1 …, ship_1 …, item_1 …."""
    await connection.execute(SEED, workspace, documents, entities)
