"""Connections that are open but useless are found, dropped and replaced, and answers stay right."""

import asyncio
import socket
import time
from collections.abc import Iterator
from urllib.parse import urlsplit

import asyncpg
import pytest

from deploy.local.postgres import PostgresServer
from outbox_worker.postgres import sessions
from service.store.database import Database
from tests.support.faults.tcp import FaultyProxy
from tests.support.parts.pooler import Pooler
from tests.support.parts.postgres import SCHEMA
from tests.support.parts.shared import execute
from tests.support.service.api import Api, Service, new_key, seed
from tests.support.waiting import until

QUIET_S = 2.1  # longer than a connection is trusted without a check
FIRST_ANSWER_S = 3


def through(proxy: FaultyProxy, database: str) -> str:
    """Return a database's URL by way of a proxy."""
    parts = urlsplit(database)
    return parts._replace(netloc=f"{parts.username}@127.0.0.1:{proxy.port}").geturl()


def proxy_to(database: str) -> FaultyProxy:
    """Return a proxy to a database's server."""
    parts = urlsplit(database)
    return FaultyProxy(parts.hostname or "", parts.port or 5432)


async def test_connections_that_a_balancer_forgot_are_replaced(
    database: str, connection: asyncpg.Connection
) -> None:
    """After a quiet spell, reads and writes on dead connections are each right within 3 s."""
    key = await new_key(database)
    await seed(connection, 2, 10)
    async with proxy_to(database) as proxy, Service(through(proxy, database)) as service:
        api = await service.api(key)
        await asyncio.gather(*(api.links("doc_1") for _ in range(5)))
        assert (await api.add("doc_1", "ship_1")).status_code == 201
        proxy.forget()
        await asyncio.sleep(QUIET_S)  # the quiet spell itself is the condition
        for call in (api.add("doc_1", "ship_2"), api.client.get("/v1/documents/doc_1")):
            began = time.monotonic()
            assert (await call).is_success
            assert time.monotonic() - began < FIRST_ANSWER_S
        assert proxy.forgotten >= 2


@pytest.fixture
def server() -> Iterator[PostgresServer]:
    """Yield a Postgres that has a standby."""
    with PostgresServer(settings={"fsync": "off", "max_wal_senders": "4"}) as server:
        yield server


async def test_a_server_that_became_read_only_is_left(server: PostgresServer) -> None:
    """Connections stay open on a read-only server; calls are right on the primary within 10 s."""
    await execute(server.dsn(), "CREATE DATABASE moved")
    await execute(server.dsn("moved"), SCHEMA)
    key = await new_key(server.dsn("moved"))
    oldest = await asyncpg.connect(server.dsn("moved"))
    await seed(oldest, 1, 5)
    standby = server.make_standby()
    async with (
        proxy_to(server.dsn("moved")) as proxy,
        Service(through(proxy, server.dsn("moved"))) as service,
    ):
        api = await service.api(key)
        assert (await api.add("doc_1", "ship_1")).status_code == 201
        await until(lambda: replayed(standby))
        standby.promote()
        proxy.target = ("127.0.0.1", standby.port)  # of new connections
        await execute(
            server.dsn("moved"),
            "ALTER SYSTEM SET default_transaction_read_only = on",
            "SELECT pg_reload_conf()",
        )
        await until(lambda: is_read_only(oldest))  # the postmaster signals its newest session first
        await oldest.close()
        began = time.monotonic()
        await until(lambda: linked(api, "ship_2"), timeout_s=10)
        assert [link["resource"]["id"] for link in await api.links("doc_1")][-1:] == ["ship_2"]
        assert time.monotonic() - began < 10
    there = await asyncpg.connect(standby.dsn("moved"))
    assert await there.fetchval("SELECT count(*) FROM document_links") == 2
    await there.close()


async def replayed(standby: PostgresServer) -> bool:
    """Whether a standby has the link."""
    there = await asyncpg.connect(standby.dsn("moved"))
    try:
        return bool(await there.fetchval("SELECT count(*) FROM document_links") == 1)
    finally:
        await there.close()


async def is_read_only(session: asyncpg.Connection) -> bool:
    """Whether an open session has taken over that its transactions are read-only."""
    return bool(await session.fetchval("SHOW default_transaction_read_only") == "on")


async def linked(api: Api, resource: str) -> bool:
    """Whether a link can be made now."""
    return bool((await api.add("doc_1", resource)).is_success)


@pytest.mark.parametrize("program", ["service", "worker"])
async def test_a_host_that_never_answers_is_passed_over(database: str, program: str) -> None:
    """Of two hosts the first accepts TCP and says nothing: a connection is there within 5 s."""
    parts = urlsplit(database)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        hosts = f"127.0.0.1:{silent.getsockname()[1]},{parts.hostname}:{parts.port}"
        url = parts._replace(netloc=f"{parts.username}@{hosts}").geturl()
        began = time.monotonic()
        if program == "service":
            async with Database(url, pool_size=1) as pool, pool.acquire() as session:
                assert await session.fetchval("SELECT 1") == 1
        else:
            other = await sessions.connect(url, "test", timeout_s=5)
            assert await other.fetchval("SELECT 1") == 1
            await sessions.disconnect(other)
        assert time.monotonic() - began < 5


async def test_a_pooler_without_prepared_statements_is_named(
    database: str, connection: asyncpg.Connection
) -> None:
    """Behind PgBouncer 1.18 in transaction mode the service is not ready, and says what to use."""
    key = await new_key(database)
    await seed(connection, 1, 30)
    with Pooler(database, "transaction") as pooler:
        async with Service(pooler.url) as service:
            api = await service.api(key)
            ready = await api.client.get("/readyz")
            assert (ready.status_code, "pool_mode=session" in ready.json()["detail"]) == (503, True)
            answers = await asyncio.gather(*(api.add("doc_1", f"ship_{n}") for n in range(1, 31)))
            assert {answer.status_code for answer in answers} <= {201, 503}


async def test_a_session_pooler_will_do(database: str, connection: asyncpg.Connection) -> None:
    """Behind a pooler that lends whole sessions, the service is ready and every call works."""
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
    """The service is not ready and the worker ends, each with the encoding's name."""
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
