"""What is counted, with Prometheus' conventional names and units."""

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector

BATCH_EVENTS = (1, 10, 100, 500, 1_000, 2_500, 5_000, 10_000, 25_000)
BATCH_SECONDS = (0.005, 0.01, 0.02, 0.03, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10)


class Metrics:
    """One registry for one process."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        ProcessCollector(registry=self.registry)
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
            "outbox_batch_duration_seconds", "From the rows in hand to Kafka's commit.",
            buckets=BATCH_SECONDS, registry=self.registry,
        )  # fmt: skip
        self.last_publish = self._gauge(
            "outbox_last_publish_timestamp_seconds", "When the last batch was committed."
        )
        self.lag_seconds = self._gauge("outbox_lag_seconds", "Age of the oldest unpublished event.")
        self.lag_events = self._gauge("outbox_lag_events", "Events not yet published, about.")
        self.oldest_transaction = self._gauge(
            "outbox_oldest_transaction_seconds",
            "Age of the oldest transaction that may still add late events.",
        )
        self.slots_cleared = self._counter(
            "outbox_slots_cleared", "Days of the ring that were cleared."
        )

    def _gauge(self, name: str, text: str) -> Gauge:
        return Gauge(name, text, registry=self.registry)

    def _counter(self, name: str, text: str, *labels: str) -> Counter:
        return Counter(name, text, labels, registry=self.registry)
