"""Many writers on a few documents: no deadlock, no 500, no gap, and events that agree with the rows."""

import asyncio
from collections import Counter
from contextlib import AsyncExitStack

import asyncpg
import pytest

from tests.support.seeds import seeds
from tests.support.service.api import Service, new_key, seed
from tests.support.service.callers import DOCUMENTS, Caller
from tests.support.topic.subscriber import check_outbox

PROCESSES = 3
WRITERS = 24
CALLS = 25

DEADLOCKS = "SELECT deadlocks FROM pg_stat_database WHERE datname = current_database()"


async def calls(caller: Caller) -> None:
    """Make the calls one after the other."""
    for _ in range(CALLS):
        await caller.call()


@pytest.mark.parametrize("number", seeds([0]))
@pytest.mark.parametrize("policy", ["registered", "any"])
async def test_mixed_writes(
    database: str, connection: asyncpg.Connection, policy: str, number: int
) -> None:
    """No call is answered 500 or more, and the events give exactly the rows."""
    key = await new_key(database)
    await seed(connection, len(DOCUMENTS), 3)
    async with AsyncExitStack() as stack:
        apis = []
        for _ in range(PROCESSES):
            service = Service(database, LINKS_ENTITY_POLICY=policy)
            apis.append(await (await stack.enter_async_context(service)).api(key))
        callers = [Caller(apis[n % PROCESSES], number + n) for n in range(WRITERS)]
        await asyncio.gather(*(calls(caller) for caller in callers))
    statuses = sum((caller.statuses for caller in callers), Counter[int]())
    assert statuses[200] + statuses[201] > WRITERS * CALLS / 3
    assert await connection.fetchval(DEADLOCKS) == 0
    await check_outbox(connection)
