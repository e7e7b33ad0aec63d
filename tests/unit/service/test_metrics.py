"""The number of time series does not depend on callers."""

import re

import pytest

from service.edge.gate.metrics import METHODS, Metrics
from service.measures import MAX_KEY_IDS, Measures


def test_callers_make_no_label_values() -> None:
    """All unknown methods have the same label value."""
    metrics = Metrics()
    for number in range(1000):
        metrics[f"BREW-{number}", "none", 405][0].inc()
    for method in METHODS:
        metrics[method, "none", 404][0].inc()
    counts = re.findall(
        r'links_http_requests_total\{method="(\w+)",route="(\w+)",status="\d+"\} (\d+)',
        metrics.render().decode(),
    )
    assert ("other", "none", "1000") in counts
    assert {method for method, *_ in counts} == METHODS | {"other"}


@pytest.mark.parametrize(("by_key", "most"), [(False, 1), (True, MAX_KEY_IDS + 2)])
def test_keys_make_few_label_values(*, by_key: bool, most: int) -> None:
    """Rate-limited calls have no key id unless asked for, and of many keys the last have none either."""
    measures = Measures(rate_limited_by_key=by_key)
    for number in range(2 * MAX_KEY_IDS):
        measures.limited(f"key_{number}")
    measures.limited("key_0")
    counts = re.findall(
        r'links_rate_limited_calls_total\{key="(\w*)"\} (\d+)', Metrics(measures).render().decode()
    )
    assert len(counts) == most
    assert sum(int(count) for _, count in counts) == 2 * MAX_KEY_IDS + 1
    assert (("key_0", "2") in counts) == by_key


def test_a_value_is_shown_once() -> None:
    """However often the metrics are read, each value is in one bucket; a bound belongs to its bucket."""
    measures = Measures()
    metrics = Metrics(measures)
    for value in (0.1, 0.2, 1000):
        measures.steps.lock.add(value)
        metrics.render()
    shown = metrics.render().decode()
    for le, count in (("0.05", 0), ("0.1", 1), ("0.25", 2), ("10.0", 2), ("+Inf", 3)):
        name = "links_round_trip_duration_seconds_bucket"
        assert f'{name}{{le="{le}",step="lock"}} {count}.0' in shown
    assert 'links_round_trip_duration_seconds_sum{step="lock"} 1000.3' in shown
