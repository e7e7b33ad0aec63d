"""Sessions with Postgres that end, or that a pooler begins to share, while the service runs."""

import asyncio
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from urllib.parse import urlsplit

import asyncpg
import pytest

from outbox_worker.postgres import sessions
from service.core.errors import Unavailable
from service.store.database import Database
from tests.support.faults.postgres import PostgresProxy
from tests.support.parts.pooler import Pooler
from tests.support.service.api import Api, Service, new_key, seed
from tests.support.waiting import BUSY_S, until

# A connection attempt to an address that does not answer ends after 2 s.
FIRST_ANSWER_S = 3 + BUSY_S
TURNS = 6
END_OLDEST = """
SELECT pg_terminate_backend(pid, 5000)
FROM (
    SELECT pid
    FROM pg_stat_activity
    WHERE application_name = 'document-links' AND datname = current_database()
    ORDER BY backend_start
    LIMIT 1
) AS s
"""


async def test_each_session_is_ended_in_turn(api: Api, connection: asyncpg.Connection) -> None:
    """After a DBA has ended any session, the next write and the next read succeed in time."""
    await asyncio.gather(*(api.links("doc_1") for _ in range(5)))
    assert (await api.add("doc_1", "ship_1")).status_code == 201
    for number in range(2, TURNS + 2):
        await until(lambda: connection.fetchval(END_OLDEST))
        async with asyncio.timeout(FIRST_ANSWER_S):
            assert (await api.add("doc_1", f"ship_{number}")).status_code == 201
            assert len(await api.links("doc_1")) == number


async def test_a_transaction_pooler_that_appears_later_is_named(
    database: str, connection: asyncpg.Connection
) -> None:
    """When PgBouncer 1.18 takes the server's place at its address, /readyz names the mode to use."""
    key = await new_key(database)
    await seed(connection, 1, 40)
    async with PostgresProxy(database) as proxy:
        with Pooler(database, "transaction") as pooler:
            async with Service(proxy.dsn) as service:
                api = await service.api(key)
                assert (await api.client.get("/readyz")).status_code == 200
                proxy.target = ("127.0.0.1", urlsplit(pooler.url).port or 0)
                proxy.cut()
                statuses: set[int] = set()

                # Reads beside the writes, so that the pooler has several connections to lend.
                async def named() -> bool:
                    answers = await asyncio.gather(
                        *(api.add("doc_1", f"ship_{number}") for number in range(1, 41)),
                        *(api.client.get("/v1/documents/doc_1/links") for _ in range(10)),
                    )
                    statuses.update(answer.status_code for answer in answers)
                    ready = await api.client.get("/readyz")
                    return ready.status_code == 503 and "pool_mode=session" in ready.text

                await until(named)
                assert statuses <= {200, 201, 503}


@contextmanager
def dropping() -> Iterator[int]:
    """Yield a port that drops SYN packets, because the queue of its listening socket is full."""
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        listening.listen(0)
        port = listening.getsockname()[1]
        waiting = [socket.socket() for _ in range(4)]
        for each in waiting:
            each.settimeout(0)
            each.connect_ex(("127.0.0.1", port))
        yield port
        for each in waiting:
            each.close()


@pytest.mark.parametrize("program", ["service", "worker"])
async def test_an_address_that_drops_packets_is_passed_over(database: str, program: str) -> None:
    """A program connects to the second host if the first drops packets; alone, the first is named."""
    parts = urlsplit(database)
    with dropping() as port:
        first = f"127.0.0.1:{port}"
        both = parts._replace(netloc=f"postgres@{first},{parts.hostname}:{parts.port}").geturl()
        alone = parts._replace(netloc=f"postgres@{first}").geturl()
        async with asyncio.timeout(FIRST_ANSWER_S):
            assert await answers(program, both) == 1
        with pytest.raises(TimeoutError, match=f"{first} does not answer within 2 s"):
            await answers(program, alone)
        if program == "service":
            async with Database(alone, pool_size=1) as pool:
                with pytest.raises(Unavailable) as refusal:
                    async with pool.acquire():
                        pass
            assert str(refusal.value.__cause__) == f"{first} does not answer within 2 s"


async def answers(program: str, url: str) -> int:
    """Return the result of SELECT 1 in a new session of a program."""
    session = await (
        sessions.connect(url, "test", timeout_s=5)
        if program == "worker"
        else Database(url, pool_size=1).connect()
    )
    try:
        found: int = await session.fetchval("SELECT 1")
    finally:
        session.terminate()
    return found
