"""The number of time series does not depend on callers."""

import re

from service.edge.gate.metrics import METHODS, Metrics


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
