"""The faults of a Postgres server itself, not of the network to it."""

import asyncio
import os
import signal
from contextlib import suppress
from typing import Final

import asyncpg

from deploy.local.postgres import PostgresServer
from tests.faults.stage import Stage
from tests.support.parts import shared
from tests.support.parts.postgres import DATABASE, END_SESSIONS
from tests.support.waiting import FAULT_S, last, until

EVERY_S: Final = 2.0
LATE_EVENTS: Final = 200
LATE_S: Final = 2.0

# As many documents with one event each, as a subscriber reads it.
WRITE_EVENTS: Final = """
INSERT INTO outbox (event_id, event_type, key, payload)
SELECT id, 'test.event', 'late/' || id, convert_to(
    json_build_object(
        'id', id, 'time', now(), 'partitionkey', 'late/' || id, 'sequence', '1'
    )::text, 'UTF8'
)
FROM (SELECT gen_random_uuid() AS id FROM generate_series(1, $1::int)) AS u
"""


async def postgres_crashes(stage: Stage) -> None:
    """Crash Postgres and start it again, several times."""
    for _ in range(max(1, int(FAULT_S / 10))):
        await asyncio.to_thread(stage.server.crash)
        await asyncio.to_thread(stage.server.start)
        await last(min(FAULT_S, 10.0))


async def sessions_ended(stage: Stage) -> None:
    """End all sessions every two seconds."""
    for _ in range(max(1, int(FAULT_S / EVERY_S))):
        await shared.execute(stage.dsn, END_SESSIONS)
        await last(EVERY_S)


async def read_only(stage: Stage) -> None:
    """Make the database read-only, as a managed Postgres does when its disk is nearly full."""
    await shared.execute(
        stage.dsn,
        f"ALTER DATABASE {DATABASE} SET default_transaction_read_only = on",
        END_SESSIONS,
    )
    await last(FAULT_S)
    reset = f"ALTER DATABASE {DATABASE} RESET default_transaction_read_only"
    await shared.execute(stage.server.dsn(), reset)  # over a database that is not read-only


async def tables_locked(stage: Stage) -> None:
    """Lock the table of links exclusively, as a careless migration does."""
    connection = await asyncpg.connect(stage.dsn)
    async with connection.transaction():
        await connection.execute("LOCK TABLE document_links IN ACCESS EXCLUSIVE MODE")
        await last(FAULT_S)
    await connection.close()


async def transaction_open(stage: Stage) -> None:
    """Keep a transaction with an xid open, as a forgotten psql does."""
    connection = await asyncpg.connect(stage.dsn)
    async with connection.transaction():
        await connection.execute("SELECT pg_current_xact_id()")
        await last(FAULT_S)
    await connection.close()


async def _synchronous(stage: Stage) -> PostgresServer:
    """Make a synchronous standby, for which each commit waits."""
    standby = await asyncio.to_thread(stage.server.make_standby)
    await shared.execute(
        stage.dsn, "ALTER SYSTEM SET synchronous_standby_names = '*'", "SELECT pg_reload_conf()"
    )
    return standby


async def commits_late(stage: Stage) -> None:
    """Let transactions write events and commit seconds later, when later events are published."""
    connection = await asyncpg.connect(stage.dsn)
    for _ in range(max(1, int(FAULT_S / LATE_S))):
        async with connection.transaction():
            await connection.execute(WRITE_EVENTS, LATE_EVENTS)
            await last(LATE_S)
    await connection.close()


async def standby_hangs(stage: Stage) -> None:
    """Let the synchronous standby hang, so that no commit ends."""
    standby = await _synchronous(stage)
    _signal(standby, signal.SIGSTOP)
    await until(lambda: _waits_for_a_standby(stage))
    await last(FAULT_S)
    _signal(standby, signal.SIGCONT)
    await shared.execute(
        stage.dsn, "ALTER SYSTEM RESET synchronous_standby_names", "SELECT pg_reload_conf()"
    )


async def _waits_for_a_standby(stage: Stage) -> bool:
    connection = await asyncpg.connect(stage.dsn)
    waits = "SELECT EXISTS (SELECT FROM pg_stat_activity WHERE wait_event = 'SyncRep')"
    found: bool = await connection.fetchval(waits)
    await connection.close()
    return found


def _signal(server: PostgresServer, number: signal.Signals) -> None:
    """Send a signal to all processes of a server, each of which leads its own process group."""
    lines = (server.data_dir / "postmaster.pid").read_text().splitlines()
    for pid in (int(lines[0]), *children(int(lines[0]))):
        with suppress(ProcessLookupError):
            os.kill(pid, number)


async def failover(stage: Stage) -> None:
    """Crash the primary, and promote its synchronous standby behind the same address."""
    standby = await _synchronous(stage)
    await last(FAULT_S / 2)
    await asyncio.to_thread(stage.server.crash)
    await shared.execute(
        standby.dsn(), "ALTER SYSTEM SET synchronous_standby_names = ''", "SELECT pg_reload_conf()"
    )
    await asyncio.to_thread(standby.promote)
    stage.to_postgres.target = ("127.0.0.1", standby.port)
    await last(FAULT_S / 2)


async def became_a_standby(stage: Stage) -> None:
    """Lead new connections to a promoted standby; the old ones stay open to a read-only server."""
    standby = await _synchronous(stage)
    await shared.execute(
        stage.dsn,
        "ALTER SYSTEM SET default_transaction_read_only = on",
        "SELECT pg_reload_conf()",
    )
    await shared.execute(
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


def children(pid: int) -> list[int]:
    """Return the child processes of a process."""
    with open(f"/proc/{pid}/task/{pid}/children") as file:  # noqa: PTH123 - of the kernel, never a regular file
        return [int(child) for child in file.read().split()]
