"""The faults of the table. Each lasts for FAULT_S and is over when its function returns."""

import asyncio
import os
import random
import signal
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Final

from tests.faults.servers import (
    became_a_standby,
    children,
    commits_late,
    failover,
    postgres_crashes,
    read_only,
    sessions_ended,
    standby_hangs,
    tables_locked,
    transaction_open,
)
from tests.faults.stage import Stage
from tests.support.faults.tcp import FaultyProxy
from tests.support.waiting import FAULT_S, last

# One thread that stays: a broker ends with the thread that started it.
BESIDE: Final = ThreadPoolExecutor(max_workers=1)


async def nothing(_: Stage) -> None:
    """Let everything work."""
    await last(FAULT_S)


async def _delayed(proxy: FaultyProxy) -> None:
    proxy.delay_s = 0.05
    await last(FAULT_S)
    proxy.delay_s = 0.0


async def _silent(proxy: FaultyProxy) -> None:
    proxy.silence()
    await last(FAULT_S)
    proxy.silence(silent=False)


async def _cut(proxy: FaultyProxy) -> None:
    for _ in range(int(FAULT_S)):
        proxy.cut()
        await last(1.0)


async def _forgetful(proxy: FaultyProxy) -> None:
    """Forget all open connections again and again, as a load balancer that is replaced."""
    for _ in range(max(1, int(FAULT_S / 15))):
        proxy.forget()
        await last(min(FAULT_S, 15.0))


async def postgres_delayed(stage: Stage) -> None:
    """Delay all data to and from Postgres by 50 ms."""
    await _delayed(stage.to_postgres)


async def postgres_silent(stage: Stage) -> None:
    """Pass nothing on to Postgres; connections stay open."""
    await _silent(stage.to_postgres)


async def postgres_resets(stage: Stage) -> None:
    """Reset all connections to Postgres every second."""
    await _cut(stage.to_postgres)


async def postgres_forgotten(stage: Stage) -> None:
    """Let a load balancer before Postgres forget the open connections."""
    await _forgetful(stage.to_postgres)


async def service_killed(stage: Stage) -> None:
    """Kill one process of the service after another; the supervisor starts a new one."""
    choice = random.Random(1)
    for _ in range(max(1, int(FAULT_S / 5))):
        if processes := children(stage.service.pid):
            os.kill(choice.choice(processes), signal.SIGKILL)
        await last(min(FAULT_S, 5.0))


async def kafka_delayed(stage: Stage) -> None:
    """Delay all data to and from Kafka by 50 ms."""
    await _delayed(stage.to_kafka)


async def kafka_silent(stage: Stage) -> None:
    """Pass nothing on to Kafka; connections stay open."""
    await _silent(stage.to_kafka)


async def kafka_resets(stage: Stage) -> None:
    """Reset all connections to Kafka every second."""
    await _cut(stage.to_kafka)


async def kafka_killed(stage: Stage) -> None:
    """Kill the broker, so that it refuses connections; start it again after FAULT_S."""
    stage.broker.cluster.kill()
    await last(FAULT_S)
    await asyncio.get_running_loop().run_in_executor(BESIDE, stage.broker.cluster.start)


async def kafka_forgotten(stage: Stage) -> None:
    """Let a load balancer before Kafka forget the open connections."""
    await _forgetful(stage.to_kafka)


async def worker_killed(stage: Stage) -> None:
    """Kill the workers in turn, and start each again."""
    for number in range(max(2, int(FAULT_S / 5))):
        worker = stage.workers[number % 2]
        worker.end(signal.SIGKILL)
        worker.start()
        await last(min(FAULT_S, 5.0))


async def leader_hangs(stage: Stage) -> None:
    """Let the leader hang: the other worker takes over, and the leader runs on later."""
    leading = [await worker.metric("outbox_leader") for worker in stage.workers]
    leader = stage.workers[leading.index(1)]
    leader.pause()
    await last(FAULT_S)
    leader.resume()


Fault = Callable[[Stage], Awaitable[None]]

BEHIND_PGBOUNCER: Final = ", behind PgBouncer"
FAULTS: Final[dict[str, Fault]] = {
    "none": nothing,
    f"none{BEHIND_PGBOUNCER}": nothing,
    f"Postgres: crashes{BEHIND_PGBOUNCER}": postgres_crashes,
    f"Postgres: silent{BEHIND_PGBOUNCER}": postgres_silent,
    f"Postgres: failover{BEHIND_PGBOUNCER}": failover,
    "Postgres: 50 ms away": postgres_delayed,
    "Postgres: silent": postgres_silent,
    "Postgres: connections reset": postgres_resets,
    "Postgres: connections forgotten": postgres_forgotten,
    "Postgres: crashes": postgres_crashes,
    "Postgres: sessions ended": sessions_ended,
    "Postgres: read-only": read_only,
    "Postgres: a table is locked": tables_locked,
    "Postgres: a transaction stays open": transaction_open,
    "Postgres: transactions commit late": commits_late,
    "Postgres: the synchronous standby hangs": standby_hangs,
    "Postgres: failover": failover,
    "Postgres: connections to an old primary": became_a_standby,
    "the service: processes killed": service_killed,
    "Kafka: 50 ms away": kafka_delayed,
    "Kafka: silent": kafka_silent,
    "Kafka: killed": kafka_killed,
    "Kafka: connections reset": kafka_resets,
    "Kafka: connections forgotten": kafka_forgotten,
    "the worker: killed": worker_killed,
    "the worker: the leader hangs": leader_hangs,
}
READY_ANYWAY: Final = {"Postgres: a table is locked"}
"""Faults during which the service may be ready: only the callers' calls on links fail."""
REPEATS: Final = {
    "Postgres: failover",
    f"Postgres: failover{BEHIND_PGBOUNCER}",
    "Postgres: connections to an old primary",
}
"""Faults after which events may be repeated, because the database is on another timeline."""
