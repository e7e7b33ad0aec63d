"""While the database is unreachable, calls are 503; when it is back, the same calls succeed."""

import asyncio
from collections.abc import AsyncIterator, Iterator

import asyncpg
import httpx
import pytest

from deploy.local.postgres import PostgresServer
from service.store.database import Database
from service.store.migrations.apply import migrate
from tests.support.service.api import Api, Service, new_key, seed
from tests.support.topic.subscriber import check_outbox
from tests.support.waiting import until

pytestmark = pytest.mark.xdist_group(
    "a Postgres that is stopped"
)  # they share what the fixture starts


@pytest.fixture(scope="module")
def server() -> Iterator[PostgresServer]:
    """Yield a Postgres that may be stopped."""
    with PostgresServer(settings={"fsync": "off"}) as server:
        yield server


@pytest.fixture
async def service(server: PostgresServer) -> AsyncIterator[Service]:
    """Yield a service on the server, with documents and entities."""
    async with Database(server.dsn(), pool_size=2) as database:
        await migrate(database)
    async with Service(server.dsn()) as service:
        yield service


async def linked(api: Api) -> bool:
    """Whether a link can be made now."""
    return (await api.add("doc_1", "ship_1")).is_success


async def test_calls_while_postgres_is_down(server: PostgresServer, service: Service) -> None:
    """While Postgres is down calls are 503 with Retry-After, and the service is not ready but alive."""
    api = await service.api(await new_key(server.dsn()))
    await prepare(server)
    assert await linked(api)
    server.stop()
    answers = [
        await api.add("doc_1", "ship_2"),
        await api.client.get("/v1/documents/doc_1/links"),
        await api.client.put("/v1/documents/doc_new", json={}),
        await api.client.get("/v1/documents", headers={"X-API-KEY": "wbk_" + "x" * 52}),
    ]
    assert [answer.status_code for answer in answers] == [503] * 4
    assert {answer.json()["code"] for answer in answers} == {"unavailable"}
    assert {answer.headers["retry-after"] for answer in answers} == {"1"}
    assert await status(api.client, "/readyz") == 503
    assert await status(api.client, "/healthz") == 200
    unchecked = {"Authorization": f"Bearer wbk_{'y' * 52}"}  # beside a key that is known
    assert (await api.client.get("/v1/nothing", headers=unchecked)).status_code == 404
    server.start()
    assert await until(lambda: linked(api))
    assert await status(api.client, "/readyz") == 200


async def test_a_crash_costs_no_acknowledged_link(server: PostgresServer, service: Service) -> None:
    """After crashes of Postgres under load, each link with a successful answer exists, with its event."""
    api = await service.api(await new_key(server.dsn(), "crash"))
    await prepare(server, "crash")
    answered: set[str] = set()
    crashed = asyncio.Event()

    async def add(document: int) -> None:
        for number in range(1, 41):
            made = await api.add(f"doc_{document}", f"ship_{number}")
            assert made.status_code in {201, 503}
            if made.status_code == 503:
                crashed.set()  # if it should come before there were enough
                return
            answered.add(made.json()["data"]["id"])
            if len(answered) > 50:
                crashed.set()

    async def crash() -> None:
        await crashed.wait()
        await asyncio.to_thread(server.crash)

    await asyncio.gather(crash(), *(add(document) for document in range(1, 11)))
    server.start()
    connection = await asyncpg.connect(server.dsn())
    there = {str(row[0]) for row in await connection.fetch("SELECT id FROM document_links")}
    assert answered <= there
    await check_outbox(connection)
    await connection.close()
    assert await until(lambda: linked(api))


async def prepare(server: PostgresServer, workspace: str = "test") -> None:
    """Make documents and entities."""
    connection = await asyncpg.connect(server.dsn())
    await seed(connection, 10, 40, workspace)
    await connection.close()


async def status(client: httpx.AsyncClient, path: str) -> int:
    """Return the status of a page."""
    return (await client.get(path)).status_code
