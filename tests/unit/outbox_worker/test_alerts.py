"""The alerts ask for metrics that the worker has, and for each job by itself."""

import re
from pathlib import Path

import pytest
from prometheus_client import generate_latest

from outbox_worker.relay.metrics import Metrics

ALERTS = Path(__file__).parents[3] / "deploy" / "prometheus" / "alerts.yaml"
RULE = re.compile(r"- alert: (\w+)\n\s+expr: (.*?)\n\s+(?:for|labels):", re.DOTALL)
EXPRESSIONS = dict(RULE.findall(ALERTS.read_text()))


@pytest.mark.parametrize("alert", EXPRESSIONS)
def test_each_metric_is_one_of_the_workers(alert: str) -> None:
    """A misspelt name would be an alert that never fires."""
    offered = set(re.findall(r"# TYPE (\w+)", generate_latest(Metrics().registry).decode()))
    asked = set(re.findall(r"\b(?:outbox|process)_\w+", EXPRESSIONS[alert]))
    assert asked
    assert asked <= offered


@pytest.mark.parametrize("alert", EXPRESSIONS)
def test_relays_of_several_databases_are_never_added_up(alert: str) -> None:
    """One relay's leader does not make up for another's, nor do two of them seem too many."""
    aggregations = re.findall(r"\b(?:sum|max|count)\b(?! by \(job)", EXPRESSIONS[alert])
    assert aggregations == []


def test_no_worker_at_all_is_told() -> None:
    """Where nobody is scraped there is no sample to compare: only absence tells it."""
    assert "absent(outbox_leader)" in EXPRESSIONS["OutboxNoWorker"]
    assert "[1d])) unless count by (job) (outbox_leader)" in EXPRESSIONS["OutboxNoWorker"]


def test_every_alert_was_looked_at() -> None:
    """The pattern above leaves no rule out."""
    assert len(EXPRESSIONS) == ALERTS.read_text().count("- alert:")
