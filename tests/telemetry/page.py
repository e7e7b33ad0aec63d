"""The operators' page of metrics and log events, deploy/telemetry.md."""

from collections.abc import Mapping
from pathlib import Path

from tests.telemetry.emitted import EVENTS, METRICS, LogEvent, Metric

PAGE = Path(__file__).parents[2] / "deploy" / "telemetry.md"

HEAD = """\
# Metrics and log events

<!-- Made by `make telemetry` from service/telemetry.py and outbox_worker/telemetry.py. -->

Both programs offer their metrics at `/metrics`, in Prometheus' text format. Each counter and histogram also
has a series `…_created`, the time of its first sample. The worker's metrics `process_…` are those of
Prometheus' client libraries.

Both programs log to standard error, one JSON object a line. Each line has `time` (UTC), `level`, `event` and
`logger`. A line that belongs to a request has its `request_id`, and its `trace_id` if it is traced. Lines of
libraries have other events. A problem that lasts is logged once when it begins, and once for each other kind
of error, not at each retry.
"""

METRICS_HEAD = """\
| metric | kind | unit | meaning |
| --- | --- | --- | --- |
"""

EVENTS_HEAD = """\
| event | level | meaning | what to do |
| --- | --- | --- | --- |
"""


def page() -> str:
    """Return the page."""
    parts = [HEAD]
    for program, name in (("service", "service"), ("outbox_worker", "worker")):
        metrics = "".join(_metric(each) for each in METRICS[program].values())
        events = "".join(_event(each) for each in EVENTS[program].values())
        parts.append(f"## Metrics of the {name}\n\n{METRICS_HEAD}{metrics}")
        parts.append(f"## Log events of the {name}\n\n{EVENTS_HEAD}{events}")
    return "\n".join(parts)


def _metric(metric: Metric) -> str:
    labels = "".join(f"<br>{each}" for each in _listed(metric.labels))
    return f"| `{metric.name}` | {metric.kind} | {metric.unit} | {metric.meaning}{labels} |\n"


def _event(event: LogEvent) -> str:
    fields = "".join(f"<br>{each}" for each in _listed(event.fields))
    action = event.action or "–"
    return f"| `{event.name}` | {event.level} | {event.meaning}{fields} | {action} |\n"


def _listed(parts: Mapping[str, str]) -> list[str]:
    return [f"`{name}`: {meaning}" for name, meaning in parts.items()]
