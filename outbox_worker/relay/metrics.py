"""The worker's metrics, with Prometheus' conventional names and units."""

from bisect import bisect_left
from collections.abc import Callable, Iterator, Mapping, Sequence

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector, values
from prometheus_client.core import GaugeMetricFamily, HistogramMetricFamily
from prometheus_client.registry import Collector
from prometheus_client.utils import floatToGoString

from outbox_worker.catalogue import Metric
from outbox_worker.release import VERSION
from outbox_worker.telemetry import METRICS

# The worker is one process. PROMETHEUS_MULTIPROC_DIR may be set for another program in the same
# environment; prometheus-client would then keep each value in a file of that folder.
values.ValueClass = values.MutexValue

BATCH_EVENTS = (1, 10, 100, 500, 1_000, 2_500, 5_000, 10_000, 25_000)
BATCH_SECONDS = (0.005, 0.01, 0.02, 0.03, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10)
AGE_SECONDS = (
    0.005, 0.01, 0.02, 0.03, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300, 1_800, 7_200,
)  # fmt: skip

Sample = float | Mapping[str, float] | None


class KnownGauge(Collector):
    """A gauge that calls `read` at each scrape, and has no sample while that returns None.

    With a label, `read` returns a value for each value of the label. A gauge that is unknown must not
    be 0, because 0 would be a statement.
    """

    def __init__(self, metric: Metric) -> None:
        self._metric = metric
        self.read: Callable[[], Sample] = lambda: None

    def collect(self) -> Iterator[GaugeMetricFamily]:
        """Yield the gauge."""
        family = GaugeMetricFamily(
            self._metric.name, self._metric.meaning, labels=list(self._metric.labels)
        )
        match self.read():
            case Mapping() as samples:
                for label, value in samples.items():
                    family.add_metric([label], value)
            case None:
                pass
            case value:
                family.add_metric([], value)
        yield family


class AgeHistogram(Collector):
    """A histogram of the ages of events, which counts a whole page at once.

    prometheus-client's own histogram takes one value at a time, which costs 1 µs.
    """

    def __init__(self, metric: Metric) -> None:
        self._metric = metric
        self._events = 0
        self._seconds = 0.0
        # The number of events that are not older than each bound.
        self._up_to = [0] * len(AGE_SECONDS)

    def observe(self, written_at: Sequence[float], now: float, events: int) -> None:
        """Count events that are published now.

        `written_at` are the times, ascending, at which they were written, or those of a sample of them.
        """
        times = len(written_at)
        if not times:
            return
        self._events += events
        self._seconds += (now - sum(written_at) / times) * events
        for number, bound in enumerate(AGE_SECONDS):
            younger = times - bisect_left(written_at, now - bound)
            self._up_to[number] += younger * events // times

    def collect(self) -> Iterator[HistogramMetricFamily]:
        """Yield the histogram."""
        bounds = map(floatToGoString, AGE_SECONDS)
        buckets = [*zip(bounds, self._up_to, strict=True), ("+Inf", self._events)]
        name, text = self._metric.name, self._metric.meaning
        yield HistogramMetricFamily(name, text, buckets, self._seconds)


class Metrics:
    """All metrics of a process, in a registry of its own."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        ProcessCollector(registry=self.registry)
        self._gauge("outbox_build_info").labels(VERSION).set(1)
        self.leading = self._gauge("outbox_leader")
        self.published = self._counter("outbox_events_published_total")
        self.published_bytes = self._counter("outbox_published_bytes_total")
        self.page_retries = self._counter("outbox_page_retries_total")
        self.event_age = AgeHistogram(METRICS["outbox_event_age_seconds"])
        self.registry.register(self.event_age)
        self.starts = self._counter("outbox_starts_total")
        self.fenced = self._counter("outbox_fenced_total")
        self.errors = self._counter("outbox_errors_total")
        self.batch_events = self._histogram("outbox_batch_events", BATCH_EVENTS)
        self.batch_seconds = self._histogram("outbox_batch_duration_seconds", BATCH_SECONDS)
        self.last_publish = self._gauge("outbox_last_publish_timestamp_seconds")
        self.lag_events = self._known("outbox_lag_events")
        self.lag_seconds = self._known("outbox_lag_seconds")
        self.oldest_transaction = self._known("outbox_oldest_transaction_seconds")
        self.paused = self._known("outbox_paused_timestamp_seconds")
        self.standbys = self._known("outbox_standbys")
        self.ring_days = self._known("outbox_ring_days")
        self.ring_bytes = self._known("outbox_ring_bytes")
        self.task_progress = self._known("outbox_task_progress_ratio")
        self.task_events = self._known("outbox_task_events")
        self.slots_cleared = self._counter("outbox_slots_cleared_total")

    def _counter(self, name: str) -> Counter:
        return Counter(*METRICS[name].described, registry=self.registry)

    def _gauge(self, name: str) -> Gauge:
        return Gauge(*METRICS[name].described, registry=self.registry)

    def _known(self, name: str) -> KnownGauge:
        gauge = KnownGauge(METRICS[name])
        self.registry.register(gauge)
        return gauge

    def _histogram(self, name: str, buckets: Sequence[float]) -> Histogram:
        return Histogram(*METRICS[name].described, buckets=buckets, registry=self.registry)
