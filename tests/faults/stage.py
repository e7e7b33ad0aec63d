"""Both programs under load, with a proxy before Postgres and one before Kafka."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import NamedTuple
from uuid import uuid4

import asyncpg

from deploy.local import programs
from deploy.local.postgres import PostgresServer
from deploy.local.programs import Program
from tests.faults.audience import Audience
from tests.faults.callers import RESOURCES, Callers
from tests.support.faults.tcp import FaultyProxy
from tests.support.parts.brokers import Broker
from tests.support.parts.pooler import Pooler, can_keep_statements
from tests.support.parts.postgres import DATABASE
from tests.support.relay.worker import Worker
from tests.support.service.api import GENEROUS, new_key, seed
from tests.support.waiting import until

CALLERS = 8
SETTLE_S = 90
STATEMENTS = 200
"""More than the number of statements that the service prepares in a session."""
SETTINGS = {"LINKS_WORKERS": "2", "LINKS_RATE_LIMIT": GENEROUS}


class Stage(NamedTuple):
    """The parts, programs and proxies that a fault may affect."""

    server: PostgresServer
    broker: Broker
    to_postgres: FaultyProxy
    to_kafka: FaultyProxy
    service: Program
    workers: tuple[Worker, Worker]
    callers: Callers
    audience: Audience

    @property
    def dsn(self) -> str:
        """The database's URL for the test: without the proxy, to the proxy's present server."""
        return f"postgresql://postgres@127.0.0.1:{self.to_postgres.target[1]}/{DATABASE}"

    async def event_ids(self) -> set[str]:
        """Return the ids of all events in the database."""
        connection = await asyncpg.connect(self.dsn)
        rows = await connection.fetch("SELECT event_id::text AS id FROM outbox")
        await connection.close()
        return {row["id"] for row in rows}

    async def settled(self) -> set[str]:
        """Return the ids of all events once the consumer has got them, or after SETTLE_S."""
        events = await self.event_ids()

        async def heard() -> bool:
            return events <= self.audience.times.keys()

        try:
            await until(heard, SETTLE_S)
        except TimeoutError:
            return events
        return events


@asynccontextmanager
async def stage(
    server: PostgresServer, broker: Broker, folder: Path, *, pooled: bool = False
) -> AsyncIterator[Stage]:
    """Yield both programs. Nobody calls until the stage's `callers` are entered."""
    topic = f"faults-{uuid4().hex}"
    documents = [f"doc_{number}" for number in range(1, CALLERS + 1)]
    connection = await asyncpg.connect(server.dsn(DATABASE))
    key = await new_key(server.dsn(DATABASE))
    await seed(connection, CALLERS, len(RESOURCES))
    await connection.close()
    async with AsyncExitStack() as stack:
        to_postgres = await stack.enter_async_context(FaultyProxy("127.0.0.1", server.port))
        to_kafka = await stack.enter_async_context(
            FaultyProxy("127.0.0.1", broker.behind, broker.proxy_port)
        )
        through = f"postgresql://postgres@127.0.0.1:{to_postgres.port}/{DATABASE}"
        url = stack.enter_context(_pooler(through)).url if pooled else through
        service = await asyncio.to_thread(
            stack.enter_context, programs.service(url, folder, **SETTINGS)
        )
        kafka = f"127.0.0.1:{to_kafka.port}"
        workers = (
            stack.enter_context(Worker(through, kafka, topic, **broker.settings)),
            stack.enter_context(Worker(through, kafka, topic, **broker.settings)),
        )
        await until(lambda: _leader(workers))
        audience = await stack.enter_async_context(Audience(broker.inside, topic))
        callers = Callers(service.url, key, documents)
        yield Stage(server, broker, to_postgres, to_kafka, service, workers, callers, audience)


def _pooler(database: str) -> Pooler:
    """Return a transaction pooler, or a session pooler if the installed PgBouncer would lose statements."""
    if can_keep_statements():
        return Pooler(database, "transaction", statements=STATEMENTS)
    return Pooler(database, "session")


async def _leader(workers: tuple[Worker, Worker]) -> bool:
    return any(line.get("state") == "leading" for worker in workers for line in worker.log())
