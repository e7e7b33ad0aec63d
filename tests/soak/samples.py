"""What is read at the end of each interval: the programs' processes, the database, the relay's lag."""

import asyncio
import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Final, Self

import asyncpg
import httpx
import msgspec

from tests.benchmarks.figures import family, memory_mib

SCRAPE_TIMEOUT_S: Final = 30
LAG_EVENTS: Final = "outbox_lag_events"
LAG_S: Final = "outbox_lag_seconds"
GROWING: Final = "^(outbox_[0-9]{2}|idempotency_keys)$"
"""The tables with a row for each change, or for each call with an Idempotency-Key."""
MIB: Final = 1 << 20
DATABASE: Final = """
SELECT
    pg_wal_lsn_diff(pg_current_wal_lsn(), '0/0')::float8 AS wal,
    sum(pg_stat_get_dead_tuples(oid))::float8 AS dead,
    sum(pg_table_size(oid)) FILTER (WHERE relname !~ $1)::float8 AS tables,
    sum(pg_indexes_size(oid)) FILTER (WHERE relname !~ $1)::float8 AS indexes,
    sum(pg_total_relation_size(oid)) FILTER (WHERE relname ~ $1)::float8 AS growing
FROM pg_class
WHERE relkind = 'r' AND relnamespace = 'public'::regnamespace
"""


class Lag(msgspec.Struct, frozen=True):
    """The relay's lag; None: the worker does not know it."""

    events: float | None
    seconds: float | None


class Sample(msgspec.Struct, frozen=True):
    """An interval of the run. Memory and descriptors are those of all processes of a program."""

    minute: float
    """The end of the interval, since the beginning of the run."""
    rate: float
    """Calls a second."""
    p50_ms: float
    p99_ms: float
    errors: int
    service_mib: float
    worker_mib: float
    service_descriptors: int
    worker_descriptors: int
    wal_mib: float
    """Written since the beginning of the run."""
    dead_tuples: float
    tables_mib: float
    """Without the tables that have a row for each change, as are `indexes_mib`."""
    indexes_mib: float
    growing_mib: float
    """The tables that have a row for each change, with their indexes."""
    lag_events: float | None
    """The largest that was seen in the interval, as is `lag_s`. None: it was not known once."""
    lag_s: float | None


class Interval(msgspec.Struct, frozen=True):
    """What the callers and the relay showed during an interval."""

    minute: float
    seconds: float
    waits_s: list[float]
    errors: int
    lags: list[Lag]


class Reader:
    """Reads everything from outside the programs, as an operator can; a context manager."""

    def __init__(self, dsn: str, service_pid: int, worker_pid: int, worker_url: str) -> None:
        self._dsn = dsn
        self._pids = {"service": service_pid, "worker": worker_pid}
        self._metrics = f"{worker_url}/metrics"
        self._wal_before = 0.0

    async def __aenter__(self) -> Self:
        """Connect, and take the WAL so far as the run's beginning."""
        # The worker closes a connection that is idle for 5 s, perhaps just as it is used again.
        limits = httpx.Limits(max_keepalive_connections=0)
        self._client = httpx.AsyncClient(timeout=SCRAPE_TIMEOUT_S, limits=limits)
        self._connection = await asyncpg.connect(self._dsn)
        self._wal_before = (await self._database())["wal"]
        return self

    async def __aexit__(self, *_: object) -> None:
        """Disconnect."""
        await self._connection.close()
        await self._client.aclose()

    async def lag(self) -> Lag:
        """Return the lag that the worker shows."""
        text = (await self._client.get(self._metrics)).text
        shown = dict(
            line.rsplit(maxsplit=1) for line in text.splitlines() if not line.startswith("#")
        )
        values = [float(shown[name]) if name in shown else None for name in (LAG_EVENTS, LAG_S)]
        return Lag(*values)

    async def caught_up(self) -> bool:
        """Whether the worker shows that all events are published; a condition for `until`."""
        return (await self.lag()).events == 0

    async def sample(self, interval: Interval) -> Sample:
        """Return the figures of an interval that has just ended."""
        database = await self._database()
        processes = {name: await asyncio.to_thread(family, pid) for name, pid in self._pids.items()}
        cuts = [1000 * cut for cut in _percentiles(interval.waits_s)]
        return Sample(
            minute=interval.minute,
            rate=len(interval.waits_s) / interval.seconds,
            p50_ms=cuts[49],
            p99_ms=cuts[98],
            errors=interval.errors,
            service_mib=sum(map(memory_mib, processes["service"])),
            worker_mib=sum(map(memory_mib, processes["worker"])),
            service_descriptors=sum(map(_descriptors, processes["service"])),
            worker_descriptors=sum(map(_descriptors, processes["worker"])),
            wal_mib=(database["wal"] - self._wal_before) / MIB,
            dead_tuples=database["dead"],
            tables_mib=database["tables"] / MIB,
            indexes_mib=database["indexes"] / MIB,
            growing_mib=database["growing"] / MIB,
            lag_events=_largest([lag.events for lag in interval.lags]),
            lag_s=_largest([lag.seconds for lag in interval.lags]),
        )

    async def _database(self) -> dict[str, float]:
        rows = await self._connection.fetch(DATABASE, GROWING)
        return dict(rows[0].items())


def _descriptors(pid: int) -> int:
    """Return the number of open descriptors of a process."""
    return sum(1 for _ in Path(f"/proc/{pid}/fd").iterdir())


def _largest(values: Sequence[float | None]) -> float | None:
    """Return the largest value; None if one is not known, or there is none."""
    known = [value for value in values if value is not None]
    return max(known) if known and len(known) == len(values) else None


def _percentiles(values: Sequence[float]) -> list[float]:
    """Return the percentiles 1 to 99; 0 if there are too few values."""
    return statistics.quantiles(values, n=100) if len(values) > 1 else [0.0] * 99
