"""The benchmark's table."""

import json
from pathlib import Path

import pytest

from tests.benchmarks import report

ROUNDS = [
    {"links.w2c128.rate": 1200.0, "pgbench.c32.rate": 1000.0, "memory.many.mib": 121.0},
    {"links.w2c128.rate": 300.0, "pgbench.c32.rate": 200.0},
    {"links.w2c128.rate": 1100.0, "pgbench.c32.rate": 1000.0},
]


def test_ratios_are_taken_within_rounds(tmp_path: Path) -> None:
    """A ratio is computed within a round, slow or not; each target says whether it is met."""
    report.save(tmp_path / "figures.json", ROUNDS, {"cores": 2})
    saved = json.loads((tmp_path / "figures.json").read_text())
    assert saved["targets"] == [
        {
            "what": "new links, 2 workers, 128 connections",
            "target": "≥ 1.2×",
            "value": pytest.approx(1.2),
            "met": True,
        },
        {
            "what": "memory after very many requests",
            "target": "≤ 120 MiB",
            "value": 121.0,
            "met": False,
        },
    ]
    assert saved["medians"]["links.w2c128.rate"] == 1100.0


def test_table_shows_only_measured_figures(capsys: pytest.CaptureFixture[str]) -> None:
    """Rows without figures are left out, and rows that only compare, without the row to compare with."""
    report.show(ROUNDS, {"cores": 2})
    lines = capsys.readouterr().out.splitlines()
    assert [line.split("│")[1].strip() for line in lines if line.startswith("│")] == [
        "new links, 2 workers, 128 connections",
        "memory after very many requests",
    ]
    assert any("1,100 (300 – 1,200) /s" in line and "yes" in line for line in lines)


def test_no_ratio_to_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    """A peer whose figure is 0 is shown without a ratio."""
    figures = {"latency.exactly-once.rest_cores": 0.5, "latency.cdc.exactly-once.rest_cores": 0.0}
    report.show([figures], {"cores": 2})
    line = next(line for line in capsys.readouterr().out.splitlines() if "Go, franz-go" in line)
    assert "0.50 cores" in line
    assert "0.000" in line
    assert "×" not in line
