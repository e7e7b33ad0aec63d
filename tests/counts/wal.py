"""What transactions wrote to the WAL between two positions, record by record, as pg_waldump prints it."""

import re
import subprocess
from collections import defaultdict
from collections.abc import Collection
from typing import NamedTuple

import asyncpg

from deploy.local.postgres import PostgresServer

RECORD = re.compile(
    r"rmgr: (\S+) +len \(rec/tot\): +\d+/ +(\d+), tx: +(\d+), .* desc: ([A-Z_]+)", re.ASCII
)
MAKES_A_DEAD_TUPLE = {"UPDATE", "HOT_UPDATE", "DELETE"}
OF_NO_TRANSACTION = "XLOG"
"""Checkpoints and the like: Postgres writes them when it wants, and some bear a transaction's id."""


class Written(NamedTuple):
    """WAL bytes, and row versions that no later transaction sees."""

    bytes: int
    dead_tuples: int


async def position(connection: asyncpg.Connection) -> str:
    """Return the end of the WAL that is written; a committed transaction lies before it."""
    lsn: str = await connection.fetchval("SELECT pg_current_wal_lsn()::text")
    return lsn


def written(server: PostgresServer, start: str, end: str, others: Collection[str] = ()) -> Written:
    """Return what transactions that changed rows wrote, but for `others`, which are xids.

    A NOTIFY has a commit record and changes no row.
    """
    if start == end:
        return Written(0, 0)
    command = [
        str(server.bindir / "pg_waldump"), "--path", str(server.data_dir / "pg_wal"),
        "--start", start, "--end", end,
    ]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    sizes: dict[str, int] = defaultdict(int)
    changed = set()
    dead_tuples = 0
    for manager, size, transaction, kind in RECORD.findall(done.stdout):
        if manager == OF_NO_TRANSACTION or transaction in {"0", *others}:
            continue
        sizes[transaction] += int(size)
        if manager == "Heap":
            changed.add(transaction)
            dead_tuples += kind in MAKES_A_DEAD_TUPLE
    return Written(sum(sizes[transaction] for transaction in changed), dead_tuples)
