"""The table: medians over the rounds, their spread, ratios within a round, and the targets."""

import json
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path

from rich.console import Console
from rich.table import Table

from tests.benchmarks.figures import Figures
from tests.benchmarks.targets import ROWS, Row

COLUMNS = ("what", "here", "beside it", "", "ratio", "target", "met")
LEFT = ("what", "beside it")
Rounds = Sequence[Figures]


def show(rounds: Rounds, machine: Mapping[str, str | float]) -> None:
    """Print the table of what was measured."""
    title = f"Medians of {len(rounds)} interleaved rounds, least and most in brackets"
    table = Table(title=title)
    for column in COLUMNS:
        table.add_column(column, justify="left" if column in LEFT else "right", no_wrap=True)
    for row in ROWS:
        if _is_known(rounds, row):
            table.add_row(*_cells(rounds, row))
    console = Console(width=max(180, Console().width))  # a table cut off is none
    console.print(table)
    console.print(", ".join(f"{name} {value}" for name, value in machine.items()), soft_wrap=True)


def save(path: Path, rounds: Rounds, machine: Mapping[str, str | float]) -> None:
    """Write every round's figures, their medians and what became of the targets as JSON."""
    names = sorted({name for figures in rounds for name in figures})
    medians = {name: statistics.median(_values(rounds, name)) for name in names}
    targets = [
        {"what": row.full_title, "target": row.target, "value": value, "met": row.met(value)}
        for row in ROWS
        if row.target and (value := _compared(rounds, row)) is not None
    ]
    content = {"machine": machine, "targets": targets, "medians": medians, "rounds": list(rounds)}
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content, indent=1))


def _is_known(rounds: Rounds, row: Row) -> bool:
    """Whether there is something to show: a line that only compares needs what it compares with."""
    needed = row.beside if row.compares_only and row.beside else row.figure
    return bool(_values(rounds, row.figure) and _values(rounds, needed))


def _cells(rounds: Rounds, row: Row) -> list[str]:
    ratio, compared = _ratio(rounds, row), _compared(rounds, row)
    with_peer = row.beside is not None and _values(rounds, row.beside)
    return [
        row.title,
        f"{_spread(rounds, row.figure)} {row.unit}",
        row.beside_title if with_peer else "",
        _spread(rounds, row.beside) if row.beside is not None and with_peer else "",
        "" if ratio is None else f"{ratio:.2f}×",
        row.target if compared is not None else "",
        "" if compared is None or not row.target else "yes" if row.met(compared) else "NO",
    ]


def _compared(rounds: Rounds, row: Row) -> float | None:
    """Return what the target is about: the ratio, or the figure itself."""
    if row.of_ratio:
        return _ratio(rounds, row)
    values = _values(rounds, row.figure)
    return statistics.median(values) if values else None


def _ratio(rounds: Rounds, row: Row) -> float | None:
    """Return the median of the rounds' ratios: what disturbed a round disturbed both.

    There is none to 0, which is the processor time of a peer at rest that used less than the kernel counts.
    """
    ratios = [
        figures[row.figure] / figures[row.beside]
        for figures in rounds
        if row.beside is not None and row.figure in figures and figures.get(row.beside)
    ]
    return statistics.median(ratios) if ratios else None


def _values(rounds: Rounds, name: str) -> list[float]:
    return [figures[name] for figures in rounds if name in figures]


def _spread(rounds: Rounds, name: str) -> str:
    values = _values(rounds, name)
    least, median, most = map(_number, (min(values), statistics.median(values), max(values)))
    return median if len(values) == 1 else f"{median} ({least} – {most})"


def _number(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.2f}" if value >= 0.1 else f"{value:.3f}"
