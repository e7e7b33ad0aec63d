"""The alerts: promtool runs the cases of alerts.yaml, and the metrics are the worker's."""

import re
import subprocess
from pathlib import Path

import pytest
import yaml
from prometheus_client import generate_latest

from deploy.local.containers import tool
from outbox_worker.relay.metrics import Metrics

ALERTS = Path(__file__).parents[3] / "deploy" / "prometheus" / "alerts.yaml"
CASES = Path(__file__).with_name("alerts.yaml")
EXPRESSIONS = {
    rule["alert"]: rule["expr"]
    for group in yaml.safe_load(ALERTS.read_text())["groups"]
    for rule in group["rules"]
}


@pytest.mark.parametrize("what", [["check", "rules", ALERTS], ["test", "rules", CASES]])
def test_promtool_finds_nothing_wrong(what: list[str | Path]) -> None:
    """The rules and templates are valid, and in each case exactly the named alerts fire."""
    command = [*tool("promtool"), *what]
    done = subprocess.run(command, check=False, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("alert", EXPRESSIONS)
def test_each_alert_fires_in_a_case(alert: str) -> None:
    """Each alert fires in at least one case."""
    assert f'ALERTS{{alertstate="firing", alertname="{alert}"' in CASES.read_text()


@pytest.mark.parametrize("alert", EXPRESSIONS)
def test_each_metric_is_one_of_the_workers(alert: str) -> None:
    """Each metric of an alert exists: with a misspelt name it would never fire."""
    offered = set(re.findall(r"# TYPE (\w+)", generate_latest(Metrics().registry).decode()))
    asked = set(re.findall(r"\b(?:outbox|process)_\w+", EXPRESSIONS[alert]))
    assert asked
    assert asked <= offered
