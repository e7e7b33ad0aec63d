"""Sessions: the write path sets what it relies on, whatever the database's defaults are."""

import asyncio
from collections import Counter
from contextlib import AsyncExitStack
from datetime import UTC, datetime
from functools import partial

import asyncpg
import pytest

from service.core.ids import IdSource
from service.core.writes import State
from service.store.database import Database
from service.store.writing.rows import StoredReply, save
from service.store.writing.transaction import Transactions
from service.store.writing.witness import Witness
from tests.support.service.api import Api, Link, Service, new_key, persistently, seed
from tests.support.topic.subscriber import check_outbox, read_outbox
from tests.support.waiting import until

Connection = asyncpg.Connection | asyncpg.pool.PoolConnectionProxy
STATES = """
SELECT state
FROM pg_stat_activity
WHERE application_name = 'document-links' AND datname = current_database()
"""
PROCESSES = 4
CALLERS = 50


async def clients(stack: AsyncExitStack, database: str, count: int = PROCESSES) -> list[Api]:
    """Return clients of so many services, as if they were processes."""
    key = await new_key(database)
    made = []
    for _ in range(count):
        service = await stack.enter_async_context(Service(database))
        made.append(await service.api(key))
    return made


async def set_default(connection: asyncpg.Connection, name: str, value: str) -> None:
    """Change a default of the database for new sessions."""
    database = await connection.fetchval("SELECT current_database()")
    await connection.execute(f"ALTER DATABASE {database} SET {name} = '{value}'")


@pytest.mark.parametrize("isolation", ["read committed", "repeatable read", "serializable"])
async def test_fifty_callers_add_the_same_link(
    database: str, connection: asyncpg.Connection, isolation: str
) -> None:
    """At each default isolation one caller gets 201, the others 200, with one row and one event."""
    await set_default(connection, "default_transaction_isolation", isolation)
    async with AsyncExitStack() as stack:
        apis = await clients(stack, database)
        await seed(connection, 1, 1)
        links = [partial(api.link, "doc_1", Link("deal", "deal_1")) for api in apis]
        calls = [persistently(links[n % PROCESSES]) for n in range(CALLERS)]
        answers = await asyncio.gather(*calls)
    assert Counter(answer.status_code for answer in answers) == {201: 1, 200: CALLERS - 1}
    assert len({answer.json()["data"]["link_id"] for answer in answers}) == 1
    assert len(await read_outbox(connection)) == 1
    await check_outbox(connection)


async def test_twenty_callers_make_the_same_document(
    database: str, connection: asyncpg.Connection
) -> None:
    """Of twenty concurrent PUTs at REPEATABLE READ one is 201, the others are 200."""
    await set_default(connection, "default_transaction_isolation", "repeatable read")
    async with AsyncExitStack() as stack:
        apis = await clients(stack, database)
        await seed(connection, 1, 1)
        body = {"display_name": "one", "resources": ["ship_1"]}
        puts = [partial(api.client.put, "/v1/documents/new", json=body) for api in apis]
        calls = [persistently(puts[n % PROCESSES]) for n in range(20)]
        answers = await asyncio.gather(*calls)
    assert Counter(answer.status_code for answer in answers) == {201: 1, 200: 19}
    assert len(await read_outbox(connection)) == 1
    await check_outbox(connection)


async def test_fifty_callers_use_an_unknown_entity(
    database: str, connection: asyncpg.Connection
) -> None:
    """With the policy `any`, fifty concurrent first uses register the entity once, and none fails."""
    key = await new_key(database)
    await seed(connection, 10, 0)
    async with AsyncExitStack() as stack:
        apis = []
        for _ in range(PROCESSES):
            service = Service(database, LINKS_ENTITY_POLICY="any")
            apis.append(await (await stack.enter_async_context(service)).api(key))
        calls = [
            persistently(partial(apis[n % PROCESSES].add, f"doc_{n % 10 + 1}", f"ship_{n // 10}"))
            for n in range(CALLERS)
        ]
        answers = await asyncio.gather(*calls)
    assert Counter(answer.status_code for answer in answers) == {201: CALLERS}
    assert await connection.fetchval("SELECT count(*) FROM entities") == 5
    await check_outbox(connection)


@pytest.mark.parametrize("lock_timeout_ms", [None, 2000], ids=["joint", "alone"])
@pytest.mark.parametrize("isolation", ["repeatable read", "serializable"])
async def test_every_write_is_read_committed(
    database: str, lock_timeout_ms: int | None, isolation: str
) -> None:
    """Transactions set their isolation level, to see the rows that they waited for.

    Behind a transaction pooler a session's settings may be those of another client.
    """
    shown: list[str] = []

    async def show(inside: Connection) -> None:
        shown.append(await inside.fetchval("SHOW transaction_isolation"))

    async with Database(database, pool_size=1) as pool, pool.acquire() as session:
        await session.execute(f"SET default_transaction_isolation = '{isolation}'")
        await Transactions(pool).run(session, show, lock_timeout_ms=lock_timeout_ms)
    assert shown == ["read committed"]


@pytest.mark.parametrize("lock_timeout_ms", [None, 2000], ids=["joint", "alone"])
async def test_no_statement_timeout_ends_the_wait_of_a_commit(
    database: str, lock_timeout_ms: int | None
) -> None:
    """A session's default statement_timeout has no effect on a write's transaction."""
    shown: list[str] = []

    async def show(inside: Connection) -> None:
        shown.append(await inside.fetchval("SHOW statement_timeout"))

    async with Database(database, pool_size=1) as pool, pool.acquire() as session:
        await session.execute("SET statement_timeout = '5s'")
        await Transactions(pool).run(session, show, lock_timeout_ms=lock_timeout_ms)
    assert shown == ["0"]


async def test_a_transaction_begun_ahead_does_not_stay(
    api: Api, connection: asyncpg.Connection
) -> None:
    """A session without writes is soon idle, not idle in transaction."""
    assert (await api.add("doc_1", "ship_1")).status_code == 201
    await until(lambda: all_idle(connection), timeout_s=5)
    assert (await api.add("doc_1", "ship_1")).status_code == 200


async def all_idle(connection: asyncpg.Connection) -> bool:
    """Whether the service has sessions, and none of them is in a transaction."""
    states = await connection.fetch(STATES)
    return bool(states) and {row["state"] for row in states} == {"idle"}


async def test_writes_are_durable_though_the_default_is_not(
    database: str, connection: asyncpg.Connection
) -> None:
    """With synchronous_commit off by default, the COMMIT of a write still waits for the flush."""
    await set_default(connection, "synchronous_commit", "off")
    await new_key(database)
    workspace = await connection.fetchval("SELECT id::text FROM workspaces")
    replies = [StoredReply(workspace, b"s" * 32, b"f" * 32, 200, b"{}")]

    shown: list[str] = []

    async def write(inside: Connection) -> Witness | None:
        state = State(IdSource())
        state.now = datetime.now(UTC)
        witness = await save(inside, state, replies)
        shown.append(await inside.fetchval("SHOW synchronous_commit"))
        return witness

    async with Database(database, pool_size=1) as pool, pool.acquire() as session:
        assert await session.fetchval("SHOW synchronous_commit") == "off"
        await Transactions(pool).run(session, write)
    assert shown == ["on"]
    assert await connection.fetchval("SELECT count(*) FROM idempotency_keys") == 1
