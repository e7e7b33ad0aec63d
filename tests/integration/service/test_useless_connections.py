"""Connections that are open but unusable are recognised and replaced, and answers stay correct."""

import asyncio
import socket
from collections.abc import Iterator
from urllib.parse import urlsplit

import asyncpg
import pytest

from deploy.local.postgres import PostgresServer
from outbox_worker.postgres import sessions
from service.store.database import Database
from tests.support.faults.postgres import PostgresProxy
from tests.support.parts.pooler import Pooler
from tests.support.parts.postgres import DATABASE, make_database
from tests.support.parts.shared import execute
from tests.support.service.api import Api, Service, new_key, seed
from tests.support.waiting import BUSY_S, last, until

QUIET_S = 2.1  # longer than TRUSTED_S, after which a connection is checked
# A connection attempt to an address that does not answer ends after 2 s.
FIRST_ANSWER_S = 3 + BUSY_S


async def test_connections_that_a_balancer_forgot_are_replaced(
    database: str, connection: asyncpg.Connection
) -> None:
    """After a quiet time, a read and a write on forgotten connections succeed in time."""
    key = await new_key(database)
    await seed(connection, 2, 10)
    async with PostgresProxy(database) as proxy, Service(proxy.dsn) as service:
        api = await service.api(key)
        await asyncio.gather(*(api.links("doc_1") for _ in range(5)))
        assert (await api.add("doc_1", "ship_1")).status_code == 201
        proxy.forget()
        await last(QUIET_S)
        for call in (api.add("doc_1", "ship_2"), api.client.get("/v1/documents/doc_1")):
            async with asyncio.timeout(FIRST_ANSWER_S):
                assert (await call).is_success
        assert proxy.forgotten >= 2


@pytest.fixture
def server() -> Iterator[PostgresServer]:
    """Yield a Postgres that has a standby."""
    with PostgresServer(settings={"fsync": "off", "max_wal_senders": "4"}) as server:
        yield server


async def test_a_server_that_became_read_only_is_left(server: PostgresServer) -> None:
    """The service leaves connections to a server that became read-only, and writes to the new primary."""
    await make_database(server)
    database = server.dsn(DATABASE)
    key = await new_key(database)
    oldest = await asyncpg.connect(database)
    await seed(oldest, 1, 5)
    standby = server.make_standby()
    async with PostgresProxy(database) as proxy, Service(proxy.dsn) as service:
        api = await service.api(key)
        assert (await api.add("doc_1", "ship_1")).status_code == 201
        await until(lambda: replayed(standby))
        standby.promote()
        proxy.target = ("127.0.0.1", standby.port)  # of new connections
        await execute(
            database,
            "ALTER SYSTEM SET default_transaction_read_only = on",
            "SELECT pg_reload_conf()",
        )
        await until(lambda: is_read_only(oldest))  # the postmaster signals its newest session first
        await oldest.close()
        await until(lambda: linked(api, "ship_2"))
        assert [link["resource"]["id"] for link in await api.links("doc_1")][-1:] == ["ship_2"]
    there = await asyncpg.connect(standby.dsn(DATABASE))
    assert await there.fetchval("SELECT count(*) FROM document_links") == 2
    await there.close()


async def replayed(standby: PostgresServer) -> bool:
    """Whether a standby has the link."""
    there = await asyncpg.connect(standby.dsn(DATABASE))
    try:
        return bool(await there.fetchval("SELECT count(*) FROM document_links") == 1)
    finally:
        await there.close()


async def is_read_only(session: asyncpg.Connection) -> bool:
    """Whether an open session has read the new configuration, so that its transactions are read-only."""
    return bool(await session.fetchval("SHOW default_transaction_read_only") == "on")


async def linked(api: Api, resource: str) -> bool:
    """Whether a link can be made now."""
    return bool((await api.add("doc_1", resource)).is_success)


@pytest.mark.parametrize("program", ["service", "worker"])
async def test_a_host_that_never_answers_is_passed_over(database: str, program: str) -> None:
    """If the first of two hosts accepts TCP and does not answer, a program connects to the second."""
    parts = urlsplit(database)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        hosts = f"127.0.0.1:{silent.getsockname()[1]},{parts.hostname}:{parts.port}"
        url = parts._replace(netloc=f"{parts.username}@{hosts}").geturl()
        if program == "service":
            async with Database(url, pool_size=1) as pool, pool.acquire() as session:
                assert await session.fetchval("SELECT 1") == 1
        else:
            other = await sessions.connect(url, "test", timeout_s=5)
            assert await other.fetchval("SELECT 1") == 1
            await sessions.disconnect(other)


async def test_a_pooler_without_prepared_statements_is_named(
    database: str, connection: asyncpg.Connection
) -> None:
    """Behind PgBouncer 1.18 in transaction mode the service is not ready, and names a mode that works."""
    key = await new_key(database)
    await seed(connection, 1, 30)
    with Pooler(database, "transaction") as pooler:
        async with Service(pooler.url) as service:
            api = await service.api(key)
            ready = await api.client.get("/readyz")
            assert (ready.status_code, "pool_mode=session" in ready.json()["detail"]) == (503, True)
            answers = await asyncio.gather(*(api.add("doc_1", f"ship_{n}") for n in range(1, 31)))
            assert {answer.status_code for answer in answers} <= {201, 503}


async def test_a_session_pooler_works(database: str, connection: asyncpg.Connection) -> None:
    """Behind a session pooler the service is ready, and every call succeeds."""
    key = await new_key(database)
    await seed(connection, 1, 10)
    with Pooler(database, "session") as pooler:
        async with Service(pooler.url) as service:
            api = await service.api(key)
            assert (await api.client.get("/readyz")).status_code == 200
            answers = await asyncio.gather(*(api.add("doc_1", f"ship_{n}") for n in range(1, 11)))
            assert {answer.status_code for answer in answers} == {201}


@pytest.mark.parametrize("encoding", ["LATIN1", "SQL_ASCII"])
async def test_a_database_that_is_not_utf8_is_refused(
    postgres: PostgresServer, encoding: str
) -> None:
    """The service is not ready, the worker refuses to connect, and both name the encoding."""
    name = f"test_{encoding.lower()}"
    await execute(
        postgres.dsn(),
        f"CREATE DATABASE {name} ENCODING {encoding} LC_COLLATE 'C' LC_CTYPE 'C' TEMPLATE template0",
    )
    async with Service(postgres.dsn(name)) as service:
        ready = await (await service.client()).get("/readyz")
    with pytest.raises(sessions.UnusableUrlError, match=encoding):
        await sessions.connect(postgres.dsn(name), "test", timeout_s=5)
    await execute(postgres.dsn(), f"DROP DATABASE {name} WITH (FORCE)")
    assert (ready.status_code, encoding in ready.json()["detail"]) == (503, True)
