"""The table: medians over the rounds, their spread, and ratios within a round."""

import json
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console
from rich.table import Table

from tests.benchmarks.figures import Figures

DELIVERIES = ("exactly-once", "at-least-once")


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
    Row("  p50", "links.w1c1.p50", "ms", "pgbench.c1.p50"),
    Row("  p99", "links.w1c1.p99", "ms", "pgbench.c1.p99"),
    Row("new links, 32 connections", "links.w1c32.rate", "/s", "pgbench.c32.rate", "pgbench, 32"),
    Row("  p50", "links.w1c32.p50", "ms", "pgbench.c32.p50"),
    Row("  p99", "links.w1c32.p99", "ms", "pgbench.c32.p99"),
    *(
        row
        for delivery in DELIVERIES
        for row in (
            Row(f"drain, {delivery}", f"drain.{delivery}.rate", "/s"),
            Row("  the relay's CPU an event", f"drain.{delivery}.cpu_us", "µs"),
            Row("  its memory at most", f"drain.{delivery}.peak_mib", "MiB"),
            Row(f"answer to event, {delivery}", f"latency.{delivery}.p50", "ms"),
            Row("  p99", f"latency.{delivery}.p99", "ms"),
        )
    ),
)


def show(
    rounds: Sequence[Figures], machine: Mapping[str, str | int], rows: Sequence[Row] = ROWS
) -> None:
    """Print the table of what was measured."""
    table = Table(title=f"Medians of {len(rounds)} interleaved rounds, least and most in brackets")
    for title in ("what", "unit", "here", "beside it", "", "ratio"):
        table.add_column(
            title, justify="left" if title in {"what", "unit"} else "right", no_wrap=True
        )
    for row in rows:
        beside = "" if row.beside is None else _spread(rounds, row.beside)
        table.add_row(
            row.title,
            row.unit,
            _spread(rounds, row.figure),
            row.beside_title,
            beside,
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


def _spread(rounds: Sequence[Figures], name: str) -> str:
    values = _values(rounds, name)
    least, median, most = map(_number, (min(values), statistics.median(values), max(values)))
    return median if len(values) == 1 else f"{median} ({least} – {most})"


def _ratio(rounds: Sequence[Figures], row: Row) -> str:
    """Return the median of the rounds' ratios: what disturbed a round disturbed both."""
    if row.beside is None:
        return ""
    ratios = [figures[row.figure] / figures[row.beside] for figures in rounds]
    return f"{statistics.median(ratios):.2f}×"


def _number(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.2f}"
