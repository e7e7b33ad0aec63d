"""The worker's sessions with Postgres are lost, one of them or all at once.

A balancer forgets them without a word, or a DBA ends them.
"""

import asyncio
import time
from urllib.parse import urlsplit

import asyncpg
import pytest

from tests.support.faults.tcp import FaultyProxy
from tests.support.relay import outbox
from tests.support.relay.worker import Worker
from tests.support.topic import topics
from tests.support.waiting import until

FIRST_EVENT_S = 3
RECOVERY_S = 10
EVENTS = 12
"""One after the other: at whatever moment of the recovery an event is written, it is not held up."""
SESSIONS = """
SELECT pid, client_port
FROM pg_stat_activity
WHERE datname = current_database() AND application_name = ANY ($1)
"""
END = "SELECT pg_terminate_backend(pid) FROM unnest($1::int[]) AS pid"
NAMES = ("leader", "window", "wake-up", "lag")
CHOICES = {name: (name,) for name in NAMES} | {"all": NAMES}


@pytest.mark.parametrize("way", ["forgotten", "ended"])
@pytest.mark.parametrize("chosen", CHOICES)
async def test_lost_sessions_are_replaced(
    database: str, kafka: str, topic: str, chosen: str, way: str
) -> None:
    """Each event is at the consumer within 3 s; within 10 s each session is another one."""
    names = [f"outbox_worker {name}" for name in CHOICES[chosen]]
    parts = urlsplit(database)
    connection, watching = await asyncpg.connect(database), await asyncpg.connect(database)
    async with FaultyProxy(parts.hostname or "", parts.port or 5432) as proxy:
        url = parts._replace(netloc=f"{parts.username}@127.0.0.1:{proxy.port}").geturl()
        with Worker(url, kafka, topic) as worker:
            await worker.leading()
            before = await until(lambda: sessions(watching, names))
            if way == "forgotten":
                proxy.forget(*before.values())
            else:
                await watching.fetch(END, list(before))

            async def replaced() -> bool:
                now = await sessions(watching, names)
                return bool(now) and not now.keys() & before.keys()

            recovered = asyncio.create_task(until(replaced, RECOVERY_S))
            for number in range(1, EVENTS + 1):
                await outbox.insert_events(connection, 1)
                began = time.monotonic()
                await topics.wait_for_count(kafka, topic, number)
                assert time.monotonic() - began < FIRST_EVENT_S, worker.output()
            await recovered
            assert bool(proxy.forgotten) == (way == "forgotten")
    await connection.close()
    await watching.close()


async def sessions(connection: asyncpg.Connection, names: list[str]) -> dict[int, int]:
    """Return the backends of these names and their clients' ports, once each has one."""
    found = {row["pid"]: row["client_port"] for row in await connection.fetch(SESSIONS, names)}
    return found if len(found) == len(names) else {}
