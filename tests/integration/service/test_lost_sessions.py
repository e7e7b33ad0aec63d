"""Sessions with Postgres that are ended or lent to others while the service runs."""

import asyncio
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from urllib.parse import urlsplit

import asyncpg
import pytest

from outbox_worker.postgres import sessions
from service.store.database import Database
from tests.support.faults.tcp import FaultyProxy
from tests.support.parts.pooler import Pooler
from tests.support.service.api import Api, Service, new_key, seed
from tests.support.waiting import until

FIRST_ANSWER_S = 3
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
    """Whichever session a DBA ends, the next read and the next write are right within 3 s."""
    await asyncio.gather(*(api.links("doc_1") for _ in range(5)))
    assert (await api.add("doc_1", "ship_1")).status_code == 201
    for number in range(2, TURNS + 2):
        await until(lambda: connection.fetchval(END_OLDEST))
        began = time.monotonic()
        assert (await api.add("doc_1", f"ship_{number}")).status_code == 201
        assert len(await api.links("doc_1")) == number
        assert time.monotonic() - began < FIRST_ANSWER_S


async def test_a_transaction_pooler_that_appears_later_is_named(
    database: str, connection: asyncpg.Connection
) -> None:
    """Behind the same address there is suddenly PgBouncer 1.18: the service says so at /readyz."""
    key = await new_key(database)
    await seed(connection, 1, 40)
    parts = urlsplit(database)
    async with FaultyProxy(parts.hostname or "", parts.port or 5432) as proxy:
        url = parts._replace(netloc=f"{parts.username}@127.0.0.1:{proxy.port}").geturl()
        with Pooler(database, "transaction") as pooler:
            async with Service(url) as service:
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

                await until(named, timeout_s=10)
                assert statuses <= {200, 201, 503}


@contextmanager
def dropping() -> Iterator[int]:
    """Yield a port on which connecting gets no answer: the queue of a listening socket is full."""
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
    """Of two hosts the first does not even accept TCP; by itself it is named, each within 3 s."""
    parts = urlsplit(database)
    with dropping() as port:
        first = f"127.0.0.1:{port}"
        both = parts._replace(netloc=f"postgres@{first},{parts.hostname}:{parts.port}").geturl()
        alone = parts._replace(netloc=f"postgres@{first}").geturl()
        began = time.monotonic()
        assert await answers(program, both) == 1
        assert time.monotonic() - began < FIRST_ANSWER_S
        began = time.monotonic()
        with pytest.raises(TimeoutError, match=f"{first} does not answer within 2 s"):
            await answers(program, alone)
        assert time.monotonic() - began < FIRST_ANSWER_S


async def answers(program: str, url: str) -> int:
    """Return what a new session of a program answers to SELECT 1."""
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
