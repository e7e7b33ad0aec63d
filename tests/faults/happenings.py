"""The faults: each lasts for FAULT_S, and is over when its function returns."""

import asyncio
import os
import random
import signal
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Final

import asyncpg

from deploy.local.postgres import PostgresServer
from tests import parts
from tests.faults.stage import Stage
from tests.line import Line
from tests.postgres import DATABASE, END_SESSIONS
from tests.waiting import FAULT_S, last, until

EVERY_S: Final = 2.0


async def nothing(_: Stage) -> None:
    """Let everything work."""
    await last(FAULT_S)


async def _delayed(line: Line) -> None:
    line.delay_s = 0.05
    await last(FAULT_S)
    line.delay_s = 0.0


async def _silent(line: Line) -> None:
    line.silence()
    await last(FAULT_S)
    line.silence(silent=False)


async def _cut(line: Line) -> None:
    for _ in range(int(FAULT_S)):
        line.cut()
        await last(1.0)


async def _forgetful(line: Line) -> None:
    """Forget every open connection, again and again, as a balancer does that is replaced."""
    for _ in range(max(1, int(FAULT_S / 15))):
        line.forget()
        await last(min(FAULT_S, 15.0))


async def postgres_delayed(stage: Stage) -> None:
    """Hold all that passes to and from Postgres up for 50 ms."""
    await _delayed(stage.to_postgres)


async def postgres_silent(stage: Stage) -> None:
    """Let nothing pass to Postgres; connections stay open."""
    await _silent(stage.to_postgres)


async def postgres_resets(stage: Stage) -> None:
    """Reset all connections to Postgres every second."""
    await _cut(stage.to_postgres)


async def postgres_forgotten(stage: Stage) -> None:
    """Let a balancer before Postgres forget the connections that are open."""
    await _forgetful(stage.to_postgres)


async def postgres_crashes(stage: Stage) -> None:
    """Crash Postgres and start it again, again and again."""
    for _ in range(max(1, int(FAULT_S / 10))):
        await asyncio.to_thread(stage.server.crash)
        await asyncio.to_thread(stage.server.start)
        await last(min(FAULT_S, 10.0))


async def sessions_ended(stage: Stage) -> None:
    """End all sessions every two seconds."""
    for _ in range(max(1, int(FAULT_S / EVERY_S))):
        await parts.execute(stage.dsn, END_SESSIONS)
        await last(EVERY_S)


async def read_only(stage: Stage) -> None:
    """Make the database read-only, as a disk that is nearly full makes a managed one."""
    await parts.execute(
        stage.dsn,
        f"ALTER DATABASE {DATABASE} SET default_transaction_read_only = on",
        END_SESSIONS,
    )
    await last(FAULT_S)
    reset = f"ALTER DATABASE {DATABASE} RESET default_transaction_read_only"
    await parts.execute(stage.server.dsn(), reset)  # over a database that is not read-only


async def tables_locked(stage: Stage) -> None:
    """Lock the links' table against everybody, as a careless migration does."""
    connection = await asyncpg.connect(stage.dsn)
    async with connection.transaction():
        await connection.execute("LOCK TABLE document_links IN ACCESS EXCLUSIVE MODE")
        await last(FAULT_S)
    await connection.close()


async def transaction_open(stage: Stage) -> None:
    """Hold a transaction with an xid open, as a forgotten console does."""
    connection = await asyncpg.connect(stage.dsn)
    async with connection.transaction():
        await connection.execute("SELECT pg_current_xact_id()")
        await last(FAULT_S)
    await connection.close()


async def _synchronous(stage: Stage) -> PostgresServer:
    """Return a standby that every commit waits for."""
    standby = await asyncio.to_thread(stage.server.make_standby)
    await parts.execute(
        stage.dsn, "ALTER SYSTEM SET synchronous_standby_names = '*'", "SELECT pg_reload_conf()"
    )
    return standby


async def standby_hangs(stage: Stage) -> None:
    """Let the synchronous standby hang: no commit ends meanwhile."""
    standby = await _synchronous(stage)
    _signal(standby, signal.SIGSTOP)
    await until(lambda: _waits_for_a_standby(stage))
    await last(FAULT_S)
    _signal(standby, signal.SIGCONT)
    await parts.execute(
        stage.dsn, "ALTER SYSTEM RESET synchronous_standby_names", "SELECT pg_reload_conf()"
    )


async def _waits_for_a_standby(stage: Stage) -> bool:
    connection = await asyncpg.connect(stage.dsn)
    waits = "SELECT EXISTS (SELECT FROM pg_stat_activity WHERE wait_event = 'SyncRep')"
    found: bool = await connection.fetchval(waits)
    await connection.close()
    return found


def _signal(server: PostgresServer, number: signal.Signals) -> None:
    """Send a signal to all processes of a server: each is the leader of a group of its own."""
    lines = (server.data_dir / "postmaster.pid").read_text().splitlines()
    for pid in (int(lines[0]), *_children(int(lines[0]))):
        with suppress(ProcessLookupError):
            os.kill(pid, number)


async def failover(stage: Stage) -> None:
    """Crash the primary and promote its synchronous standby behind the same address."""
    standby = await _synchronous(stage)
    await last(FAULT_S / 2)
    await asyncio.to_thread(stage.server.crash)
    await parts.execute(
        standby.dsn(), "ALTER SYSTEM SET synchronous_standby_names = ''", "SELECT pg_reload_conf()"
    )
    await asyncio.to_thread(standby.promote)
    stage.to_postgres.target = ("127.0.0.1", standby.port)
    await last(FAULT_S / 2)


async def became_a_standby(stage: Stage) -> None:
    """Send new connections to a promoted standby; the old ones stay open to a node without writes."""
    standby = await _synchronous(stage)
    await parts.execute(
        stage.dsn,
        "ALTER SYSTEM SET default_transaction_read_only = on",
        "SELECT pg_reload_conf()",
    )
    await parts.execute(
        standby.dsn(), "ALTER SYSTEM SET synchronous_standby_names = ''", "SELECT pg_reload_conf()"
    )
    await until(lambda: _replayed(stage.server, standby))
    await asyncio.to_thread(standby.promote)
    stage.to_postgres.target = ("127.0.0.1", standby.port)
    await last(FAULT_S)


async def _replayed(primary: PostgresServer, standby: PostgresServer) -> bool:
    ends = []
    for server, function in ((primary, "pg_current_wal_lsn"), (standby, "pg_last_wal_replay_lsn")):
        connection = await asyncpg.connect(server.dsn())
        ends.append(await connection.fetchval(f"SELECT {function}() - '0/0'::pg_lsn"))
        await connection.close()
    return bool(ends[1] >= ends[0])


async def service_killed(stage: Stage) -> None:
    """Kill one process of the service after the other; its supervisor starts a new one."""
    choice = random.Random(1)
    for _ in range(max(1, int(FAULT_S / 5))):
        children = _children(stage.service.pid)
        if children:
            os.kill(choice.choice(children), signal.SIGKILL)
        await last(min(FAULT_S, 5.0))


def _children(pid: int) -> list[int]:
    with open(f"/proc/{pid}/task/{pid}/children") as file:  # noqa: PTH123 - of the kernel, never a regular file
        return [int(child) for child in file.read().split()]


async def kafka_delayed(stage: Stage) -> None:
    """Hold all that passes to and from Kafka up for 50 ms."""
    await _delayed(stage.to_kafka)


async def kafka_silent(stage: Stage) -> None:
    """Let nothing pass to Kafka; connections stay open."""
    await _silent(stage.to_kafka)


async def kafka_resets(stage: Stage) -> None:
    """Reset all connections to Kafka every second."""
    await _cut(stage.to_kafka)


async def kafka_forgotten(stage: Stage) -> None:
    """Let a balancer before Kafka forget the connections that are open."""
    await _forgetful(stage.to_kafka)


async def worker_killed(stage: Stage) -> None:
    """Kill the workers in turn, and start each again."""
    for number in range(max(2, int(FAULT_S / 5))):
        worker = stage.workers[number % 2]
        worker.end(signal.SIGKILL)
        worker.start()
        await last(min(FAULT_S, 5.0))


async def leader_hangs(stage: Stage) -> None:
    """Let the leader hang: the other worker takes over, and the first one wakes up later."""
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
    "Postgres: 50 ms away": postgres_delayed,
    "Postgres: silent": postgres_silent,
    "Postgres: connections reset": postgres_resets,
    "Postgres: connections forgotten": postgres_forgotten,
    "Postgres: crashes": postgres_crashes,
    "Postgres: sessions ended": sessions_ended,
    "Postgres: read-only": read_only,
    "Postgres: a table is locked": tables_locked,
    "Postgres: a transaction stays open": transaction_open,
    "Postgres: the synchronous standby hangs": standby_hangs,
    "Postgres: failover": failover,
    "Postgres: connections to an old primary": became_a_standby,
    "the service: processes killed": service_killed,
    "Kafka: 50 ms away": kafka_delayed,
    "Kafka: silent": kafka_silent,
    "Kafka: connections reset": kafka_resets,
    "Kafka: connections forgotten": kafka_forgotten,
    "the worker: killed": worker_killed,
    "the worker: the leader hangs": leader_hangs,
}
REPEATS: Final = {"Postgres: failover", "Postgres: connections to an old primary"}
"""After these, events may come again: the database is on another timeline."""
