"""The worker's sessions with Postgres are lost, one of them or all at once.

Either a load balancer forgets the connections silently, or a DBA ends the sessions.
"""

import asyncio

import asyncpg
import pytest

from tests.support.faults.postgres import PostgresProxy
from tests.support.relay import outbox
from tests.support.relay.worker import Worker
from tests.support.topic import topics
from tests.support.waiting import BUSY_S, until

FIRST_EVENT_S = 3 + BUSY_S
RECOVERY_S = 10 + BUSY_S  # 10 s: outbox_worker.relay.lag
EVENTS = 12
"""Written one after the other, so that one is written at each stage of the recovery."""
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
    """Each event is published in time during the recovery, and within 10 s each session is replaced."""
    names = [f"outbox_worker {name}" for name in CHOICES[chosen]]
    connection, watching = await asyncpg.connect(database), await asyncpg.connect(database)
    async with PostgresProxy(database) as proxy:
        with Worker(proxy.dsn, kafka, topic) as worker:
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
                await topics.wait_for_count(kafka, topic, number, FIRST_EVENT_S)
            await recovered
            assert bool(proxy.forgotten) == (way == "forgotten")
    await connection.close()
    await watching.close()


async def sessions(connection: asyncpg.Connection, names: list[str]) -> dict[int, int]:
    """Return the pids of the sessions with these names, with their client ports; {} unless each exists."""
    found = {row["pid"]: row["client_port"] for row in await connection.fetch(SESSIONS, names)}
    return found if len(found) == len(names) else {}
