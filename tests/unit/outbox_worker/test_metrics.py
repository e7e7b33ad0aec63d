"""The ages of events are counted page by page, and an unknown gauge has no sample."""

import pytest
from prometheus_client import generate_latest
from prometheus_client.parser import text_string_to_metric_families as parsed

from outbox_worker.relay.metrics import AGE_SECONDS, Metrics

NOW = 1_000_000.0


def buckets(metrics: Metrics) -> dict[float, float]:
    """Return the cumulative count of each bucket, as a scrape shows it."""
    return {
        float(sample.labels["le"]): sample.value
        for family in parsed(generate_latest(metrics.registry).decode())
        for sample in family.samples
        if sample.name == "outbox_event_age_seconds_bucket"
    }


def test_each_event_is_in_the_bucket_of_its_age() -> None:
    """A bound includes the events of exactly its age; the sum is that of all ages."""
    ages = (8_000, 7_200, 6.5, 2.5, 2.5, 0.004, 0)
    metrics = Metrics()
    metrics.event_age.observe(sorted(NOW - age for age in ages), NOW, len(ages))
    counted = buckets(metrics)
    assert counted == {
        bound: sum(NOW - (NOW - age) <= bound for age in ages)
        for bound in [*AGE_SECONDS, float("inf")]
    }
    value = metrics.registry.get_sample_value
    assert value("outbox_event_age_seconds_count") == len(ages)
    assert value("outbox_event_age_seconds_sum") == pytest.approx(sum(ages))


def test_a_sample_counts_for_its_whole_page() -> None:
    """Of a page of 100 events with four known ages, a quarter counts with each; pages add up."""
    metrics = Metrics()
    for _ in range(2):
        metrics.event_age.observe([NOW - 50, NOW - 20, NOW - 20, NOW - 0.4], NOW, 100)
    counted = buckets(metrics)
    assert (counted[0.5], counted[30], counted[60], counted[float("inf")]) == (50, 150, 200, 200)


def test_a_gauge_that_is_not_known_has_no_sample() -> None:
    """A gauge shows the value that it is given at the scrape, 0 as well, and nothing for None."""
    metrics = Metrics()
    value = metrics.registry.get_sample_value
    assert value("outbox_standbys") is None
    metrics.standbys.read = lambda: 0
    assert value("outbox_standbys") == 0
    metrics.ring_days.read = lambda: {"empty": 3, "published": 0}
    assert value("outbox_ring_days", {"state": "empty"}) == 3
    assert value("outbox_ring_days", {"state": "published"}) == 0
