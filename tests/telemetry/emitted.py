"""Checks what a program emits in a test: each log line with its fields, and each metric with its labels."""

import json
import logging
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

from prometheus_client.parser import text_string_to_metric_families

import outbox_worker.catalogue
import service.catalogue
from outbox_worker import telemetry as of_worker
from service import telemetry as of_service

LogEvent = service.catalogue.LogEvent | outbox_worker.catalogue.LogEvent
Metric = service.catalogue.Metric | outbox_worker.catalogue.Metric

EVENTS: Mapping[str, Mapping[str, LogEvent]] = {
    "service": of_service.LOG_EVENTS,
    "outbox_worker": of_worker.LOG_EVENTS,
}
METRICS: Mapping[str, Mapping[str, Metric]] = {
    "service": of_service.METRICS,
    "outbox_worker": of_worker.METRICS,
}
ON_EVERY_LINE = {"time", "level", "event", "logger", "request_id", "trace_id"}
OF_RECORDS = vars(logging.makeLogRecord({})).keys() | {"message", "asctime", "taskName"}
FILES = ("service.log", "worker.log", "outbox_worker.log")


def unlisted(logger: str, event: str, level: str, fields: Collection[str]) -> str | None:
    """Return what is wrong with a line, None if nothing is or if it is a library's."""
    listed = EVENTS.get(logger.partition(".")[0])
    if listed is None:
        return None
    if event not in listed:
        return f"{event} is not listed"
    if level not in listed[event].level.split(" or "):
        return f"{event} is logged as {level}, and listed as {listed[event].level}"
    more = set(fields) - listed[event].fields.keys() - ON_EVERY_LINE
    return f"{event} has the fields {sorted(more)}, which are not listed" if more else None


def unlisted_in(text: str) -> list[str]:
    """Return what is wrong with the lines of a program's log."""
    lines = [json.loads(line) for line in text.splitlines() if line.startswith('{"time"')]
    found = [unlisted(line["logger"], line["event"], line["level"], line.keys()) for line in lines]
    return [each for each in found if each is not None]


def unlisted_in_folder(folder: Path) -> list[str]:
    """Return what is wrong with the lines of the programs that log to a folder."""
    return [
        each
        for name in FILES
        for file in folder.rglob(name)
        for each in unlisted_in(file.read_text(errors="replace"))
    ]


class Scraped(NamedTuple):
    """A metric in Prometheus' text format."""

    name: str
    kind: str
    meaning: str
    labels: frozenset[str]


def own_metrics(text: str) -> Iterator[Scraped]:
    """Yield the program's own metrics, without the times of their first samples."""
    for each in text_string_to_metric_families(text):
        if each.name.startswith(("links_", "outbox_")) and not each.name.endswith("_created"):
            name = f"{each.name}_total" if each.type == "counter" else each.name
            labels = frozenset(label for sample in each.samples for label in sample.labels)
            yield Scraped(name, each.type, each.documentation, labels - {"le"})


def unlisted_metrics(program: str, text: str) -> list[str]:
    """Return what is wrong with the metrics that a program offers."""
    found = []
    for metric in own_metrics(text):
        listed = METRICS[program].get(metric.name)
        if listed is None:
            found.append(f"{metric.name} is not listed")
        elif metric[1:3] != (listed.kind, listed.meaning) or metric.labels - listed.labels.keys():
            found.append(f"{metric} is not as listed: {listed}")
    return found


class Watch(logging.Handler):
    """Notes what is wrong with the lines that are logged in this process."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []
        for program in EVENTS:
            logging.getLogger(program).addHandler(self)

    def emit(self, record: logging.LogRecord) -> None:
        """Check a line."""
        fields: Mapping[str, object] = vars(record)
        more = fields.keys() - OF_RECORDS
        if record.exc_info:
            more |= {"exception"}
        wrong = unlisted(record.name, record.getMessage(), record.levelname.lower(), more)
        if wrong is not None:
            self.found.append(wrong)
