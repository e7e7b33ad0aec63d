"""The alerts fire when they should, once for each fault, and lead to the runbook."""

import re
import subprocess
from collections import Counter
from pathlib import Path
from typing import Any, Final

import pytest
import yaml

from deploy.local.containers import tool
from tests.telemetry.queries import unknown
from tests.unit.alerts import objectives, relay, service
from tests.unit.alerts.case import DAYS, HOURS, MINUTES, Pace, promtool_test
from tests.unit.alerts.series import RELAY, SERVICE

DEPLOY: Final = Path(__file__).parents[3] / "deploy"
RULE_FILES: Final = sorted((DEPLOY / "prometheus").glob("*.yaml"))
RULES: Final[list[dict[str, Any]]] = [
    rule
    for file in RULE_FILES
    for group in yaml.safe_load(file.read_text())["groups"]
    for rule in group["rules"]
]
ALERTS: Final = {rule["alert"]: rule for rule in RULES if "alert" in rule}
CASES: Final = [*service.CASES, *objectives.CASES, *relay.CASES]
RUNBOOK: Final = (DEPLOY / "runbook.md").read_text()
ENTRY: Final = re.compile(r"^### (\w+)\n\n((?:- .+\n)+)", re.MULTILINE)
ENTRIES: Final = {found[1]: found[2] for found in ENTRY.finditer(RUNBOOK)}
QUESTIONS: Final = ("Means", "Hurts", "Look at", "Do")


def promtool(*arguments: str | Path) -> None:
    """Run promtool, which has to find nothing wrong."""
    command = [*tool("promtool"), *map(str, arguments)]
    done = subprocess.run(command, check=False, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


def test_promtool_finds_nothing_wrong() -> None:
    """The rules and templates are valid."""
    promtool("check", "rules", *RULE_FILES)


@pytest.mark.timeout(300)
@pytest.mark.parametrize("pace", [MINUTES, HOURS, DAYS])
def test_alerts_fire_once_for_a_fault(tmp_path: Path, pace: Pace) -> None:
    """In each case the named alert fires once and alone, and before and after the fault none fires."""
    well = SERVICE | RELAY
    tests = [
        promtool_test(case, well, ALERTS[case.alert]["labels"]["severity"])
        for case in CASES
        if case.pace == pace
    ]
    file = tmp_path / "cases.yaml"
    content = {
        "rule_files": list(map(str, RULE_FILES)),
        "evaluation_interval": f"{pace.evaluations_s}s",
        "tests": tests,
    }
    file.write_text(yaml.safe_dump(content))
    promtool("test", "rules", file)


def test_each_alert_has_a_case() -> None:
    """Each alert fires in a case, is quiet before, and is over after the fault in at least one."""
    assert {case.alert for case in CASES} == ALERTS.keys()
    assert {case.alert for case in CASES if case.over is not None} == ALERTS.keys()


def test_no_two_cases_have_the_same_name() -> None:
    """A failure that promtool reports names its case."""
    assert set(Counter((case.alert, case.name) for case in CASES).values()) == {1}


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.get("alert") or rule["record"])
def test_each_metric_exists(rule: dict[str, Any]) -> None:
    """Each metric and label of a rule exists: with a misspelt name it would never fire."""
    recorded = {each["record"] for each in RULES if "record" in each}
    assert list(unknown(rule["expr"], recorded)) == []


@pytest.mark.parametrize("alert", ALERTS)
def test_an_alert_waits_for_alerts_that_exist(alert: str) -> None:
    """Each alert that keeps another one from firing exists."""
    for names in re.findall(r'ALERTS\{alertname=~?"([^"]+)"', ALERTS[alert]["expr"]):
        for name in names.split("|"):
            assert any(re.fullmatch(name, each) for each in ALERTS), name


@pytest.mark.parametrize("alert", ALERTS)
def test_each_alert_leads_to_its_entry_in_the_runbook(alert: str) -> None:
    """Each alert has a severity, a summary, a description and a link to its heading in the runbook."""
    rule = ALERTS[alert]
    base = '{{ or $externalLabels.document_links_runbook "deploy/runbook.md" }}'
    assert rule["labels"]["severity"] in {"page", "ticket"}
    assert rule["annotations"].keys() == {"summary", "description", "runbook_url"}
    assert rule["annotations"]["runbook_url"] == f"{base}#{alert.lower()}"


def test_the_runbook_has_an_entry_for_each_alert() -> None:
    """Each entry belongs to an alert, and says what it means, whom it hurts, where to look, what to do."""
    assert ENTRIES.keys() == ALERTS.keys()
    for name, text in ENTRIES.items():
        questions = tuple(re.findall(r"^- \*\*(.+?):\*\*", text, re.MULTILINE))
        assert questions == QUESTIONS, name
