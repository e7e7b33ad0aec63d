"""The dashboard's metrics exist in the programs."""

import json
import re
from pathlib import Path

from prometheus_client import generate_latest

from outbox_worker.relay.metrics import Metrics as WorkerMetrics
from service.edge.gate.metrics import Metrics as ServiceMetrics

DASHBOARD = Path(__file__).parents[2] / "deploy" / "grafana" / "dashboard.json"


def test_every_panel_shows_metrics_that_there_are() -> None:
    """Each metric of a panel exists: with a misspelt name the panel would stay empty."""
    offered = generate_latest(WorkerMetrics().registry) + ServiceMetrics().render()
    names = set(re.findall(r"# TYPE (\w+)", offered.decode()))
    panels = json.loads(DASHBOARD.read_text())["panels"]
    for panel in panels:
        for target in panel["targets"]:
            asked = re.findall(r"\b(?:outbox|links)_\w+", target["expr"])
            assert asked, panel["title"]
            assert {name.removesuffix("_bucket") for name in asked} <= names, panel["title"]
    assert len({panel["id"] for panel in panels}) == len(panels) > 0
