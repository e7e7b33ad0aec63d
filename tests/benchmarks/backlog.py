"""Draining a great backlog and a small one: from leading to the last event, search and all."""

import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from tests.benchmarks import drain
from tests.benchmarks.figures import Figures
from tests.benchmarks.measurement import Round
from tests.benchmarks.relay import EXACTLY_ONCE, Variant
from tests.benchmarks.relays import Worker, topic_with_consumer
from tests.benchmarks.stage import Stage

SMALL = 100_000
LEADING = b'"leading"'
LEADING_S = 30


@asynccontextmanager
async def measurement(stage: Stage) -> AsyncIterator[Round]:
    """Yield what drains one and then the other."""

    async def one_round() -> Figures:
        return {
            "backlog.small.rate": await _rate(stage, SMALL),
            "backlog.great.rate": await _rate(stage, stage.scale.backlog),
        }

    yield one_round


async def _rate(stage: Stage, events: int) -> float:
    log = stage.logs / "worker.log"
    mark = log.stat().st_size if log.exists() else 0

    def leading() -> bool:
        return LEADING in log.read_bytes()[mark:]

    async with (
        topic_with_consumer(stage.bootstrap) as (topic, consumer),
        Worker(stage, Variant(EXACTLY_ONCE)).waiting(events) as waiting,
        waiting.relayed(topic) as process,
    ):
        process.wait_ready(leading, timeout_s=LEADING_S)
        began = time.monotonic()
        _, last = await drain.watch(consumer, process, events)
        await drain.check(consumer, events)
    return events / (last.at - began)
