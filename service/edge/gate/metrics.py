"""Prometheus metrics of the service, summed over its processes."""

import asyncio
import os
import platform
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Final

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.multiprocess import MultiProcessCollector

from service.edge.gate.measured import Finite, Levels, Measured
from service.measures import Measures
from service.release import VERSION
from service.settings import shared_folder
from service.supervision import Supervisor
from service.telemetry import METRICS

CONTENT_TYPE: Final = b"text/plain; version=0.0.4; charset=utf-8"
SECONDS: Final = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0)

COPY_INTERVAL_S: Final = 1.0
"""Time between two copies for other processes: less than between two scrapes."""

METHODS: Final = frozenset(("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"))
"""Methods with a label value of their own; every other method is `other`."""


class Metrics(dict[tuple[str, str, int], tuple[Counter, Histogram]]):
    """The number and the duration of the responses, by method, route and status; and all other metrics.

    Routes are templates, never paths, so the number of series is bounded. The series are cached in this
    dictionary, because finding one by its labels costs more than counting.

    If there are several processes, each has a file for each type of metric in the shared folder, and the one
    that is scraped sums them up. The counts of an ended process remain in its file.
    """

    def __init__(
        self, measures: Measures | None = None, read_levels: Callable[[], Levels] = Levels
    ) -> None:
        super().__init__()
        self._read_levels = read_levels
        self._registry = CollectorRegistry()
        self._measured = Measured(measures or Measures(), self._registry)
        build = self._gauge("links_build_info")
        build.labels(VERSION, platform.python_version()).set(1)
        self._requests = self._counter("links_http_requests_total")
        self._seconds = self._histogram("links_http_request_duration_seconds", SECONDS)
        self._storage_unreachable = self._gauge("links_rate_limit_storage_away")
        self._expired = self._counter("links_expired_rows_total")
        self._expiry_finished = self._gauge("links_expiry_finished_timestamp_seconds")

    def _counter(self, name: str) -> Counter:
        return Counter(*METRICS[name].described, registry=self._registry)

    def _gauge(self, name: str) -> Gauge:
        """Return a gauge; of several processes, the greatest value among those that live is shown."""
        return Gauge(*METRICS[name].described, multiprocess_mode="livemax", registry=self._registry)

    def _histogram(self, name: str, buckets: Sequence[float]) -> Histogram:
        return Histogram(*METRICS[name].described, buckets=buckets, registry=self._registry)

    def expired(self, documents: int, links: int) -> None:
        """Count rows that have expired."""
        self._expired.labels("documents").inc(documents)
        self._expired.labels("document_links").inc(links)

    def expiry_finished(self, time_s: float) -> None:
        """Set the end of the last sweep, in seconds since 1970."""
        self._expiry_finished.set(time_s)

    def storage_unreachable(self, unreachable: bool) -> None:  # noqa: FBT001 - its name is the method's
        """Set the gauge that shows whether the storage of the rate limits is unreachable."""
        self._storage_unreachable.set(unreachable)

    def __missing__(self, response: tuple[str, str, int]) -> tuple[Counter, Histogram]:
        """Make the two series of a method, route and status."""
        method, route, status = response
        label = method if method in METHODS else "other"
        series = (self._requests.labels(label, route, status), self._seconds.labels(route))
        self[response] = series
        return series

    @asynccontextmanager
    async def shared(self, supervisor: Supervisor) -> AsyncIterator[None]:
        """Copy the measures for other processes, if there are any, until the end of the context."""
        if shared_folder() is None:
            yield
            return
        async with supervisor.running("copy-measures", self._copy_forever):
            yield
        self._copy()

    async def _copy_forever(self) -> None:
        while True:
            self._copy()
            await asyncio.sleep(COPY_INTERVAL_S)

    def _copy(self) -> None:
        self._measured.copy(self._read_levels())

    def render(self) -> bytes:
        """Return Prometheus' text format, summed over the worker processes if there are several."""
        self._copy()
        folder = shared_folder()
        if folder is None:
            return generate_latest(Finite(self._registry))
        _forget_gauges_of_dead_processes(folder)
        files = MultiProcessCollector(None)  # type: ignore[no-untyped-call] # it ships no types
        return generate_latest(Finite(files))


def _forget_gauges_of_dead_processes(folder: Path) -> None:
    """Remove the gauges' files of ended processes; the files of counters remain valid."""
    for file in folder.glob("gauge_live*.db"):
        if not _is_alive(int(file.stem.rpartition("_")[2])):
            with suppress(FileNotFoundError):  # another worker has removed it
                file.unlink()


def _is_alive(pid: int) -> bool:
    """Whether a worker process exists. If a process of another user has its id, the worker has ended."""
    try:
        os.kill(pid, 0)
    except (ProcessLookupError, PermissionError):
        return False
    return True
