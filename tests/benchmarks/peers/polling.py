"""A polling relay on psycopg and confluent-kafka: what a team with an outbox of its own would write."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from deploy.local.process import Process
from tests.benchmarks.relay import Variant, Waiting
from tests.benchmarks.stage import Stage
from tests.support import environments

SOURCE = Path(__file__).with_name("polling_relay")


class Polling:
    """One process of it. It delivers at least once; exactly once is not possible in this design."""

    def __init__(self, stage: Stage, variant: Variant) -> None:
        self.name = f"polling.{variant.name}"
        self.warm = True
        self._stage = stage
        self._compression = variant.compression
        self._python = environments.install("polling", SOURCE / "requirements.txt")

    @asynccontextmanager
    async def waiting(self, events: int) -> AsyncIterator[Waiting]:
        """Yield a database with so many events."""
        database = await self._stage.make_database("bench_polling", events)

        @asynccontextmanager
        async def relayed(topic: str) -> AsyncIterator[Process]:
            settings = {
                "DATABASE_URL": database.dsn,
                "BROKERS": self._stage.bootstrap,
                "TOPIC": topic,
                "COMPRESSION": self._compression,
            }
            command = [self._python, str(SOURCE / "main.py")]
            log = self._stage.logs / "polling.log"
            process = Process("the polling relay", command, log, env=settings)
            process.start()
            try:
                yield process
            finally:
                process.end()

        yield Waiting(database, relayed)
