"""WAL records of transactions between two positions, as pg_waldump prints them."""

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
"""Checkpoints and similar records: Postgres writes them at any time, some with a transaction's xid."""


class Written(NamedTuple):
    """WAL bytes, and the number of row versions that no later transaction sees."""

    bytes: int
    dead_tuples: int


async def position(connection: asyncpg.Connection) -> str:
    """Return the end of the written WAL; a committed transaction lies before it."""
    lsn: str = await connection.fetchval("SELECT pg_current_wal_lsn()::text")
    return lsn


def written(server: PostgresServer, start: str, end: str, others: Collection[str] = ()) -> Written:
    """Return what transactions that changed rows wrote, without the transactions with the xids `others`.

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
