"""Checks the metrics and labels that a PromQL query asks for: a misspelt one gives no data and no error."""

import re
from collections.abc import Collection, Iterator
from typing import Final

from tests.telemetry.emitted import METRICS

SELECTOR: Final = re.compile(r"(?<![:\w])((?:links|outbox|process)_\w+)(?:{([^}]*)})?")
RECORDED: Final = re.compile(r"\bjob:\w+:\w+")
MATCHER: Final = re.compile(r"(\w+)\s*(?:=~?|!=|!~)\s*\"")
SUFFIX: Final = re.compile(r"_(?:bucket|count|sum)$")
LISTED: Final = {name: metric for listed in METRICS.values() for name, metric in listed.items()}
OF_TARGETS: Final = {"job", "instance"}
OF_PROCESSES: Final = {"process_start_time_seconds"}
"""Metrics of prometheus-client itself."""


def unknown(query: str, recorded: Collection[str]) -> Iterator[str]:
    """Yield the metrics and labels of a query that neither a program nor a recording rule has."""
    yield from set(RECORDED.findall(query)) - set(recorded)
    for name, matchers in SELECTOR.findall(query):
        metric = LISTED.get(name) or LISTED.get(SUFFIX.sub("", name))
        if metric is None:
            if name not in OF_PROCESSES:
                yield name
            continue
        labels = metric.labels.keys() | OF_TARGETS | ({"le"} if name.endswith("_bucket") else set())
        yield from (f"{name}{{{each}}}" for each in MATCHER.findall(matchers) if each not in labels)
