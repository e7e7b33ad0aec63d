"""The memory of a worker process of the service after ten thousand requests and after a million."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from deploy.local import programs
from deploy.local.process import LocalError
from tests.benchmarks.figures import Figures, memory_mib
from tests.benchmarks.measurement import Round
from tests.benchmarks.stage import SERVICE, Stage
from tests.benchmarks.wrk import Caller, load

FEW = 10_000
CONNECTIONS = 128
STEP_S = 4


@asynccontextmanager
async def measurement(stage: Stage) -> AsyncIterator[Round]:
    """Yield what makes so many requests, once."""

    async def one_round() -> Figures:
        database = await stage.make_database("bench_memory")
        held: list[float] = []
        served = 0
        with programs.service(database.dsn, stage.logs, **SERVICE) as service:
            caller = Caller(service.url, database.key, CONNECTIONS)
            for goal in (FEW, stage.scale.requests):
                while served < goal:
                    done = load(caller, STEP_S)
                    served += done.requests
                    if done.failed:
                        raise LocalError(f"{done.failed} calls failed\n{service.log_tail()}")
                held.append(memory_mib(service.pid))
        return {"memory.few.mib": held[0], "memory.many.mib": held[1], "memory.requests": served}

    yield one_round
