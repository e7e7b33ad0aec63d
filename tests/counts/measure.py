"""Measures each operation on a separate Postgres, and compares the counts with the committed ones."""

from pathlib import Path
from typing import Final

import asyncpg
import msgspec
from msgspec import structs

from deploy.local.postgres import PostgresServer
from tests.counts import wal
from tests.counts.operations import Run, of_the_relay, of_the_service
from tests.counts.sessions import CountingProxy
from tests.support.parts.postgres import DATABASE, make_database
from tests.support.waiting import until

FILE: Final = Path(__file__).with_name("counts.json")
RUNS: Final = 5
"""Runs of each operation. The least of each count is kept: an index page split adds WAL to some runs."""
SETTINGS: Final = {
    "autovacuum": "off",
    "checkpoint_timeout": "1d",
    "fsync": "off",
    "full_page_writes": "off",
    "max_wal_size": "8GB",
}
"""With these settings Postgres writes almost no WAL of its own, and no checkpoint changes what an operation
writes.
"""
WAL_TOLERANCE: Final = 0.02
"""A share of the WAL bytes. Differences of 0.3 % were seen: ids are random, and so are the index pages that a
batch splits.
"""


class Counts(msgspec.Struct, frozen=True):
    """The cost of one run of an operation."""

    round_trips: int
    statements: int
    wal_bytes: int
    dead_tuples: int


Table = dict[str, Counts]
"""The counts by operation."""


async def measure(kafka: str, bindir: Path | None = None) -> Table:
    """Return each operation's counts on the Postgres with these programs; None: on that of the wheel."""
    with PostgresServer(bindir, settings=SETTINGS) as server:
        await make_database(server)
        async with CountingProxy("127.0.0.1", server.port) as proxy:
            through = f"postgresql://postgres@127.0.0.1:{proxy.port}/{DATABASE}?sslmode=disable"
            beside = await asyncpg.connect(server.dsn(DATABASE))
            try:
                async with of_the_service(proxy, through, beside) as runs:
                    table = {each: await _count(runs[each], server, proxy, beside) for each in runs}
                async with of_the_relay(proxy, through, beside, kafka) as runs:
                    table |= {
                        each: await _count(runs[each], server, proxy, beside) for each in runs
                    }
                return table
            finally:
                await beside.close()


async def _count(
    run: Run, server: PostgresServer, proxy: CountingProxy, beside: asyncpg.Connection
) -> Counts:
    """Return the least of each count, after a first run that prepares statements."""
    await run()
    counts = []
    for _ in range(RUNS):
        await until(proxy.quiet)
        start = await wal.position(beside)
        trips, others = await run()
        written = wal.written(server, start, await wal.position(beside), others)
        counts.append((len(trips), sum(trip.statements for trip in trips), *written))
    return Counts(*map(min, zip(*counts, strict=True)))


def committed() -> Table:
    """Return the table of counts.json."""
    return msgspec.json.decode(FILE.read_bytes(), type=Table)


def differences(before: Table, after: Table) -> list[str]:
    """Return a line for each count that rose or fell, for WAL bytes by more than the tolerance."""
    lines = []
    for operation in sorted(before.keys() | after.keys()):
        old, new = (structs.asdict(table.get(operation, NONE)) for table in (before, after))
        for name, was in old.items():
            tolerance = WAL_TOLERANCE * was if name == "wal_bytes" else 0
            if abs(new[name] - was) > tolerance:
                way = "rose" if new[name] > was else "fell"
                what = name.replace("_", " ").replace("wal", "WAL")
                lines.append(f"{operation}: {what} {way} from {was} to {new[name]}")
    return lines


NONE: Final = Counts(0, 0, 0, 0)
"""The counts of an operation that one of the tables lacks."""
