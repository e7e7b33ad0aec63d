"""The worker's metrics, with Prometheus' conventional names and units."""

from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector, values
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector

from outbox_worker.release import VERSION
from outbox_worker.telemetry import METRICS

# The worker is one process. PROMETHEUS_MULTIPROC_DIR may be set for another program in the same
# environment; prometheus-client would then keep each value in a file of that folder.
values.ValueClass = values.MutexValue

BATCH_EVENTS = (1, 10, 100, 500, 1_000, 2_500, 5_000, 10_000, 25_000)
BATCH_SECONDS = (0.005, 0.01, 0.02, 0.03, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10)


class Unpublished(NamedTuple):
    """The rows in Postgres that are not published yet."""

    events: int
    """The approximate number of committed events that are not published."""
    oldest_s: float
    """The age of the oldest of these events, 0 if there is none."""
    transaction_s: float
    """The age of the oldest open transaction, which may add late rows; 0 if there is none."""


class LagGauges(Collector):
    """Gauges without a sample while the lag is unknown, because 0 would mean that there is none."""

    def __init__(self) -> None:
        self.known: Callable[[], Unpublished | None] = lambda: None

    def collect(self) -> Iterator[GaugeMetricFamily]:
        """Yield the gauges."""
        unpublished = self.known()
        names = ("outbox_lag_events", "outbox_lag_seconds", "outbox_oldest_transaction_seconds")
        for number, name in enumerate(names):
            value = None if unpublished is None else unpublished[number]
            yield GaugeMetricFamily(name, METRICS[name].meaning, value)


class Metrics:
    """All metrics of a process, in a registry of its own."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        ProcessCollector(registry=self.registry)
        self._gauge("outbox_build_info").labels(VERSION).set(1)
        self.leading = self._gauge("outbox_leader")
        self.published = self._counter("outbox_events_published_total")
        self.starts = self._counter("outbox_starts_total")
        self.fenced = self._counter("outbox_fenced_total")
        self.errors = self._counter("outbox_errors_total")
        self.batch_events = self._histogram("outbox_batch_events", BATCH_EVENTS)
        self.batch_seconds = self._histogram("outbox_batch_duration_seconds", BATCH_SECONDS)
        self.last_publish = self._gauge("outbox_last_publish_timestamp_seconds")
        self.lag = LagGauges()
        self.registry.register(self.lag)
        self.slots_cleared = self._counter("outbox_slots_cleared_total")

    def _counter(self, name: str) -> Counter:
        return Counter(*METRICS[name].described, registry=self.registry)

    def _gauge(self, name: str) -> Gauge:
        return Gauge(*METRICS[name].described, registry=self.registry)

    def _histogram(self, name: str, buckets: Sequence[float]) -> Histogram:
        return Histogram(*METRICS[name].described, buckets=buckets, registry=self.registry)
