"""Draining while another session holds a transaction open, which slows most queues in Postgres down."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Final

import asyncpg

from tests.benchmarks import drain
from tests.benchmarks.figures import Figures
from tests.benchmarks.measurement import Round
from tests.benchmarks.relay import EXACTLY_ONCE, Variant, Waiting
from tests.benchmarks.relays import Worker
from tests.benchmarks.stage import Stage

INSERT: Final = """
INSERT INTO outbox (event_id, event_type, key, payload)
VALUES (gen_random_uuid(), 'document.linked', 'held', '{}')
"""
WRITER: Final = ("BEGIN", INSERT)
READER: Final = ("BEGIN ISOLATION LEVEL REPEATABLE READ", "SELECT count(*) FROM outbox")
CASES: Final = {"none": (), "writer": WRITER, "reader": READER}


class HeldOpen(Worker):
    """Our worker, and a session that has done something and does not end its transaction."""

    def __init__(self, stage: Stage, case: str) -> None:
        super().__init__(stage, Variant(EXACTLY_ONCE))
        self._case = case

    @asynccontextmanager
    async def waiting(self, events: int) -> AsyncIterator[Waiting]:
        """Yield a database with so many events."""
        async with super().waiting(events) as waiting:
            session = await asyncpg.connect(waiting.database.dsn)
            try:
                for statement in CASES[self._case]:
                    await session.execute(statement)
                yield waiting
            finally:
                await session.close()


@asynccontextmanager
async def measurement(stage: Stage) -> AsyncIterator[Round]:
    """Yield what drains once with nobody else there, and once with each case."""

    async def one_round() -> Figures:
        figures: Figures = {}
        for case in CASES:
            done = await drain.measure(stage, HeldOpen(stage, case), stage.scale.events)
            figures[f"held.{case}.rate"] = done["drain.exactly-once.rate"]
        return figures

    yield one_round
