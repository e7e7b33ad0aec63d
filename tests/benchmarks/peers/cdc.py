"""A relay in Go on pglogrepl and franz-go: the design of go-pq-cdc-kafka, which cannot be had."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from aiokafka.admin import NewTopic

from deploy.local.process import Process
from tests.benchmarks.peers import golang
from tests.benchmarks.peers.debezium import Source
from tests.benchmarks.relay import EXACTLY_ONCE, Variant, Waiting
from tests.benchmarks.stage import Stage, fill
from tests.support.topic import topics

SOURCE = Path(__file__).with_name("cdc_relay")
PUBLICATION = "document_links"


class Cdc:
    """The Go program on the publication and the slot that we ship for Debezium."""

    def __init__(self, stage: Stage, variant: Variant) -> None:
        self.name = f"cdc.{variant.name}"
        self.warm = True
        self._stage = stage
        self._variant = variant
        self._program = golang.build(SOURCE)

    @asynccontextmanager
    async def waiting(self, events: int) -> AsyncIterator[Waiting]:
        """Yield a database with so many events, written after its slot was made."""
        database = await self._stage.make_database("bench_cdc")
        async with Source(database.dsn) as source:
            if events:
                await fill(database, events)

            @asynccontextmanager
            async def relayed(topic: str) -> AsyncIterator[Process]:
                async with self._progress_topic(topic) as progress:
                    process = self._process(source, topic, progress)
                    process.start()
                    try:
                        yield process
                    finally:
                        process.end()

            yield Waiting(database, relayed)

    @asynccontextmanager
    async def _progress_topic(self, topic: str) -> AsyncIterator[str]:
        """Yield the name of a topic for the position in the WAL; an empty name if none is needed."""
        if self._variant.delivery != EXACTLY_ONCE:
            yield ""
            return
        name = f"{topic}-progress"
        async with topics.administration(self._stage.bootstrap) as admin:
            compacted = {"cleanup.policy": "compact"}
            await admin.create_topics([NewTopic(name, 1, 1, topic_configs=compacted)])
            try:
                yield name
            finally:
                await admin.delete_topics([name])

    def _process(self, source: Source, topic: str, progress: str) -> Process:
        settings = {
            "DATABASE_URL": source.dsn,
            "SLOT": source.name,
            "PUBLICATION": PUBLICATION,
            "BROKERS": self._stage.bootstrap,
            "TOPIC": topic,
            "PROGRESS_TOPIC": progress,
            "COMPRESSION": self._variant.compression,
        }
        log = self._stage.logs / "cdc.log"
        return Process("the relay in Go", [str(self._program)], log, env=settings)
