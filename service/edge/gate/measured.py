"""The metrics whose numbers are copied from `service.measures`, where counting costs a call less."""

import math
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, Final, Literal, NamedTuple, TypeVar

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, Metric
from prometheus_client.registry import Collector

from service.measures import Distribution, Measures, Steps
from service.telemetry import METRICS

COUNTERS: Final = {
    "links_calls_retried_total": "calls_retried",
    "links_lock_timeouts_total": "lock_timeouts",
    "links_commits_retried_total": "commits_retried",
    "links_commits_unknown_total": "commits_unknown",
    "links_replies_replayed_total": "replies_replayed",
    "links_keys_refreshed_total": "keys_refreshed",
    "links_unknown_keys_total": "unknown_keys",
    "links_rate_limited_calls_total": "rate_limited",
    "links_calls_refused_total": "calls_refused",
}
"""The attribute of Measures that each counter shows: a number, or a number for each value of its label."""

HISTOGRAMS: Final = {
    "links_transaction_calls": "transaction_calls",
    "links_transaction_changes": "transaction_changes",
    "links_write_queue_duration_seconds": "queue_s",
    "links_transaction_duration_seconds": "transaction_s",
    "links_round_trip_duration_seconds": "steps",
}
"""The attribute of Measures that each histogram shows."""

GAUGES: Final[dict[str, Literal["max", "livemax", "livemin", "livesum"]]] = {
    "links_last_write_timestamp_seconds": "max",  # also of ended processes, whose writes are stored
    "links_database_unreachable": "livemax",
    "links_write_queue_calls": "livesum",
    "links_write_queue_oldest_seconds": "livemax",
    "links_key_expiry_timestamp_seconds": "livemin",
    "links_pool_connections": "livesum",
    "links_pool_waiting": "livesum",
    "links_calls_in_progress": "livesum",
}
"""How each gauge is made of the values of several processes; `live…`: of those that are alive."""

Labels = tuple[str, ...]
M = TypeVar("M", Counter, Gauge, "_Histogram")


class Levels(NamedTuple):
    """Numbers that are read for each copy."""

    queued_calls: int = 0
    oldest_queued_s: float = 0.0
    used_connections: int = 0
    idle_connections: int = 0
    soonest_key_end: float = math.inf
    """Seconds since 1970; infinity: no key expires."""


class Measured:
    """Copies the measures of this process into the metrics of a registry."""

    def __init__(self, measures: Measures, registry: CollectorRegistry) -> None:
        self._measures = measures
        self._counters = {
            name: Counter(*METRICS[name].described, registry=registry) for name in COUNTERS
        }
        self._counted: dict[tuple[str, Labels], int] = {}
        self._gauges = {
            name: Gauge(*METRICS[name].described, multiprocess_mode=mode, registry=registry)
            for name, mode in GAUGES.items()
        }
        self._histograms: list[tuple[_Histogram, Distribution]] = []
        for name, attribute in HISTOGRAMS.items():
            series = _by_labels(getattr(measures, attribute))
            bounds = next(iter(series.values())).bounds
            histogram = _Histogram(*METRICS[name].described, buckets=bounds, registry=registry)
            self._histograms += [(_child(histogram, each), series[each]) for each in series]

    def copy(self, levels: Levels) -> None:
        """Add what was counted since the last copy, and set the gauges."""
        measures = self._measures
        for name, attribute in COUNTERS.items():
            for labels, count in _by_labels(getattr(measures, attribute)).items():
                before = self._counted.get((name, labels), 0)
                _child(self._counters[name], labels).inc(count - before)
                self._counted[name, labels] = count
        for histogram, distribution in self._histograms:
            histogram.copy(distribution)
        for name, labels, value in _gauges(measures, levels):
            _child(self._gauges[name], labels).set(value)


def _gauges(measures: Measures, levels: Levels) -> Iterator[tuple[str, Labels, float]]:
    """Yield name, labels and value of each gauge."""
    yield "links_last_write_timestamp_seconds", (), measures.last_write_at
    yield "links_database_unreachable", (), measures.database_unreachable
    yield "links_write_queue_calls", (), levels.queued_calls
    yield "links_write_queue_oldest_seconds", (), levels.oldest_queued_s
    yield "links_key_expiry_timestamp_seconds", (), levels.soonest_key_end
    yield "links_pool_connections", ("all", "used"), levels.used_connections
    yield "links_pool_connections", ("all", "idle"), levels.idle_connections
    yield "links_pool_connections", ("writers", "used"), measures.writers
    yield "links_pool_waiting", ("all",), measures.pool_waiting
    yield "links_pool_waiting", ("writers",), measures.writers_waiting
    for state, calls in measures.calls_in_progress.items():
        yield "links_calls_in_progress", (state,), calls


class _Histogram(Histogram):
    """A histogram that takes over the values of a distribution; prometheus-client takes one at a time."""

    _copied_counts: Sequence[int] = ()
    _copied_total = 0.0

    def copy(self, distribution: Distribution) -> None:
        """Add the values that were counted since the last copy."""
        counts = distribution.counts
        before = self._copied_counts or [0] * len(counts)
        for number, count in enumerate(counts):
            if count != before[number]:
                self._buckets[number].inc(count - before[number])
        self._sum.inc(distribution.total - self._copied_total)
        self._copied_counts, self._copied_total = counts.copy(), distribution.total


class Finite(Collector):
    """Leaves out the gauges whose value is infinite: there is no such time."""

    def __init__(self, collector: Collector) -> None:
        self._collector = collector

    def collect(self) -> Iterable[Metric]:
        """Yield the metrics."""
        for metric in self._collector.collect():
            if metric.type == "gauge":
                metric.samples = [each for each in metric.samples if math.isfinite(each.value)]
            yield metric


def _by_labels(measured: Any) -> dict[Labels, Any]:  # noqa: ANN401 - numbers or distributions
    """Return the values of a metric by the values of its label; there may be no label."""
    if isinstance(measured, Steps):
        measured = {step: getattr(measured, step) for step in Steps.__struct_fields__}
    if isinstance(measured, dict):
        return {(label,): value for label, value in measured.items()}
    return {(): measured}


def _child(metric: M, labels: Labels) -> M:
    return metric.labels(*labels) if labels else metric
