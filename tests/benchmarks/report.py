"""The table: medians over the rounds, their spread, and ratios within a round."""

import json
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console
from rich.table import Table

from tests.benchmarks.figures import Figures


@dataclass(frozen=True)
class Row:
    """One line: a figure and, where there is one, the figure that it stands beside."""

    title: str
    figure: str
    unit: str
    beside: str | None = None
    beside_title: str = ""


ROWS = (
    Row("new links, 1 connection", "links.w1c1.rate", "/s", "pgbench.c1.rate", "pgbench, 1 client"),
    Row("  p50", "links.w1c1.p50", "ms", "pgbench.c1.p50", ""),
    Row("  p99", "links.w1c1.p99", "ms", "pgbench.c1.p99", ""),
    Row(
        "new links, 32 connections",
        "links.w1c32.rate",
        "/s",
        "pgbench.c32.rate",
        "pgbench, 32 clients",
    ),
    Row("  p50", "links.w1c32.p50", "ms", "pgbench.c32.p50", ""),
    Row("  p99", "links.w1c32.p99", "ms", "pgbench.c32.p99", ""),
    Row("drain, exactly once", "drain.exactly-once.rate", "events/s"),
    Row("  relay's CPU an event", "drain.exactly-once.cpu_us", "µs"),
    Row("  relay's memory at most", "drain.exactly-once.peak_mib", "MiB"),
    Row("drain, at least once", "drain.at-least-once.rate", "events/s"),
    Row("  relay's CPU an event", "drain.at-least-once.cpu_us", "µs"),
    Row("response to consumer at 1,000/s, exactly once, p50", "latency.exactly-once.p50", "ms"),
    Row("  p99", "latency.exactly-once.p99", "ms"),
    Row("response to consumer at 1,000/s, at least once, p50", "latency.at-least-once.p50", "ms"),
    Row("  p99", "latency.at-least-once.p99", "ms"),
)


def show(
    rounds: Sequence[Figures], machine: Mapping[str, str | int], rows: Sequence[Row] = ROWS
) -> None:
    """Print the table of what was measured."""
    table = Table(title=f"medians of {len(rounds)} interleaved rounds (least – most)")
    table.add_column("what")
    table.add_column("here", justify="right")
    table.add_column("beside", justify="right")
    table.add_column("ratio", justify="right")
    for row in rows:
        if any(row.figure in figures for figures in rounds):
            table.add_row(
                row.title,
                _spread(rounds, row.figure, row.unit),
                _beside(rounds, row),
                _ratio(rounds, row),
            )
    console = Console(width=max(120, Console().width))
    console.print(table)
    console.print(", ".join(f"{name} {value}" for name, value in machine.items()), soft_wrap=True)


def save(path: Path, rounds: Sequence[Figures], machine: Mapping[str, str | int]) -> None:
    """Write every round's figures and their medians as JSON."""
    names = sorted({name for figures in rounds for name in figures})
    medians = {name: statistics.median(_values(rounds, name)) for name in names}
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(
        json.dumps({"machine": machine, "medians": medians, "rounds": list(rounds)}, indent=1)
    )


def _values(rounds: Sequence[Figures], name: str) -> list[float]:
    return [figures[name] for figures in rounds if name in figures]


def _spread(rounds: Sequence[Figures], name: str, unit: str) -> str:
    values = _values(rounds, name)
    least, median, most = (
        _number(value) for value in (min(values), statistics.median(values), max(values))
    )
    return f"{median} {unit} ({least} – {most})"


def _beside(rounds: Sequence[Figures], row: Row) -> str:
    if row.beside is None:
        return ""
    return f"{row.beside_title} {_spread(rounds, row.beside, row.unit)}".strip()


def _ratio(rounds: Sequence[Figures], row: Row) -> str:
    """Return the median of the rounds' ratios: what disturbed a round disturbed both."""
    if row.beside is None:
        return ""
    ratios = [figures[row.figure] / figures[row.beside] for figures in rounds]
    return f"{statistics.median(ratios):.2f}×"


def _number(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.2f}"
