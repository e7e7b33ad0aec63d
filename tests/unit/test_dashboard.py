"""The dashboard shows metrics that exist, says what they mean, and leads to the runbook."""

import json
import re
from pathlib import Path
from typing import Any, Final

import yaml

from tests.telemetry.queries import unknown

DEPLOY: Final = Path(__file__).parents[2] / "deploy"
DASHBOARD: Final = json.loads((DEPLOY / "grafana" / "dashboard.json").read_text())
RULES: Final = (DEPLOY / "prometheus" / "objectives.yaml").read_text()
RUNBOOK: Final = (DEPLOY / "runbook.md").read_text()
ROWS: Final = ["Alerts and objectives", "Service", "Relay", "Ring"]
OWN: Final = "${runbook}#"


def panels() -> list[dict[str, Any]]:
    """Return the panels that show data."""
    return [panel for panel in DASHBOARD["panels"] if panel["type"] != "row"]


def test_every_panel_shows_metrics_that_there_are() -> None:
    """Each metric and label of a panel exists: with a misspelt one the panel would stay empty."""
    groups = yaml.safe_load(RULES)["groups"]
    recorded = {rule.get("record") for group in groups for rule in group["rules"]}
    for panel in panels():
        for target in panel["targets"]:
            assert list(unknown(target["expr"], recorded)) == [], panel["title"]


def test_every_panel_is_of_the_chosen_jobs() -> None:
    """Each query has the variable of the job."""
    for panel in panels():
        for target in panel["targets"]:
            assert 'job=~"$job"' in target["expr"], panel["title"]


def test_every_panel_says_what_it_shows() -> None:
    """Each panel has an id and a title of its own, a unit and a description, in the four rows."""
    for key in ("id", "title"):
        assert len({panel[key] for panel in panels()}) == len(panels()) > 0
    for panel in panels():
        assert panel["description"].endswith("."), panel["title"]
        assert panel["fieldConfig"]["defaults"]["unit"], panel["title"]
    assert [panel["title"] for panel in DASHBOARD["panels"] if panel["type"] == "row"] == ROWS


def test_links_lead_to_entries_of_the_runbook() -> None:
    """The dashboard leads to the runbook, and panels lead to the entries of their alerts."""
    entries = {name.lower() for name in re.findall(r"^### (\w+)$", RUNBOOK, re.MULTILINE)}
    links = [link["url"] for panel in panels() for link in panel.get("links", ())]
    assert [link["url"] for link in DASHBOARD["links"]] == ["${runbook}"]
    assert all(link.startswith(OWN) for link in links)
    assert {link.removeprefix(OWN) for link in links} <= entries


def test_the_runbook_names_panels_that_there_are() -> None:
    """Each panel to which the runbook sends its reader exists."""
    sentences = re.findall(r"[^.]*\b[Pp]anels?\b[^.]*\.", RUNBOOK)
    named = {title for sentence in sentences for title in re.findall(r'"([^"`]+)"', sentence)}
    assert named
    assert named <= {panel["title"] for panel in panels()}
