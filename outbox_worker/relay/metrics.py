"""The worker's metrics, with Prometheus' conventional names and units."""

from collections.abc import Callable, Iterator
from typing import NamedTuple

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector, values
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector

from outbox_worker.release import VERSION

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
        gauges = (
            ("outbox_lag_events", "Approximate number of events not yet published."),
            ("outbox_lag_seconds", "Age of the oldest unpublished event."),
            (
                "outbox_oldest_transaction_seconds",
                "Age of the oldest transaction that may still add late events.",
            ),
        )
        for number, (name, text) in enumerate(gauges):
            value = None if unpublished is None else unpublished[number]
            yield GaugeMetricFamily(name, f"{text} Absent while this process does not know.", value)


class Metrics:
    """All metrics of a process, in a registry of its own."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        ProcessCollector(registry=self.registry)
        build = Gauge(
            "outbox_build_info", "Always 1; the label tells the release of this process.",
            ["version"], registry=self.registry,
        )  # fmt: skip
        build.labels(VERSION).set(1)
        self.leading = self._gauge("outbox_leader", "1 while this process leads.")
        self.published = self._counter("outbox_events_published", "Events acknowledged by Kafka.")
        self.starts = self._counter(
            "outbox_starts", "Take-overs, by where they started from.", "source"
        )
        self.fenced = self._counter("outbox_fenced", "Times another relay fenced this one.")
        self.errors = self._counter("outbox_errors", "Errors that ended a term, by kind.", "kind")
        self.batch_events = Histogram(
            "outbox_batch_events", "Events in a batch.", buckets=BATCH_EVENTS,
            registry=self.registry,
        )  # fmt: skip
        self.batch_seconds = Histogram(
            "outbox_batch_duration_seconds", "From a page that is read to Kafka's commit.",
            buckets=BATCH_SECONDS, registry=self.registry,
        )  # fmt: skip
        self.last_publish = self._gauge(
            "outbox_last_publish_timestamp_seconds", "When the last batch was committed."
        )
        self.lag = LagGauges()
        self.registry.register(self.lag)
        self.slots_cleared = self._counter(
            "outbox_slots_cleared", "Days of the ring that were cleared."
        )

    def _gauge(self, name: str, text: str) -> Gauge:
        return Gauge(name, text, registry=self.registry)

    def _counter(self, name: str, text: str, *labels: str) -> Counter:
        return Counter(name, text, labels, registry=self.registry)
