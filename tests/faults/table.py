"""The table of faults: printed at the end of a run, and written as JSON."""

import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final

import msgspec

FILE: Final = Path(".cache/faults.json")
README: Final = Path(__file__).parents[2] / "README.md"
SHOWN: Final = re.compile(r"^\| fault \|.*(?:\n\|.*)+", re.MULTILINE)
"""The table in the README."""


class Row(msgspec.Struct, frozen=True):
    """One fault, and what callers and subscribers saw of it."""

    fault: str
    seconds: float
    """How long the fault lasted."""
    calls: int
    unavailable: int
    """Calls that were answered 503, or not at all because the process that served them was killed."""
    wrong: int
    """Answers that were not the truth."""
    longest_read_s: float
    longest_write_s: float
    events: int
    longest_event_s: float
    """From the change to the consumer."""
    lost: int
    twice: int
    out_of_order: int
    wrong_numbers: int
    """Numbers and states that /metrics and /readyz of either program showed, and that were not the truth."""


HEAD: Final = (
    "fault", "s", "calls", "503", "wrong", "longest read, s", "longest write, s",
    "events", "longest to the consumer, s", "lost", "twice", "out of order",
    "wrong numbers",
)  # fmt: skip


def markdown(rows: Sequence[Row]) -> Iterator[str]:
    """Yield the lines of the table."""
    yield f"| {' | '.join(HEAD)} |"
    yield f"|{' --- |' * len(HEAD)}"
    for row in rows:
        yield f"| {' | '.join(map(_shown, msgspec.structs.astuple(row)))} |"


def _shown(value: str | float) -> str:
    if isinstance(value, str):
        return value
    return f"{value:,}" if isinstance(value, int) else f"{value:.1f}"


def write(rows: Sequence[Row]) -> None:
    """Write them as JSON."""
    FILE.parent.mkdir(exist_ok=True)
    FILE.write_bytes(msgspec.json.format(msgspec.json.encode(rows), indent=2) + b"\n")
