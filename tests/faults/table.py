"""The table of faults, printed at the end of a run and written as JSON."""

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
    """A fault, and what callers and subscribers saw."""

    fault: str
    seconds: float
    """The length of the fault."""
    calls: int
    unavailable: int
    """Calls that were answered 503, or not at all because their process was killed."""
    wrong: int
    """Wrong answers."""
    longest_read_s: float
    longest_write_s: float
    events: int
    longest_event_s: float
    """From the change to the consumer."""
    lost: int
    twice: int
    out_of_order: int
    wrong_numbers: int
    """Wrong numbers and states in /metrics and /readyz of both programs."""


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
    """Write the rows as JSON."""
    FILE.parent.mkdir(exist_ok=True)
    FILE.write_bytes(msgspec.json.format(msgspec.json.encode(rows), indent=2) + b"\n")
