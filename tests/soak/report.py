"""The table of a run, a row an interval, its conclusion, and its figures as JSON."""

from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import msgspec

from tests.soak.curves import JUDGED_MINUTES, Rise, Rule, rises
from tests.soak.samples import Sample

Column = tuple[str, int, Callable[[Sample], str]]


def _of(field: str, digits: int = 0) -> Callable[[Sample], str]:
    def shown(sample: Sample) -> str:
        value: float | None = getattr(sample, field)
        return "?" if value is None else f"{value:,.{digits}f}"

    return shown


COLUMNS: Final[tuple[Column, ...]] = (
    ("minute", 6, _of("minute", 1)),
    ("calls/s", 7, _of("rate", 1)),
    ("p50 ms", 6, _of("p50_ms", 1)),
    ("p99 ms", 7, _of("p99_ms", 1)),
    ("errors", 6, _of("errors")),
    ("service MiB", 11, _of("service_mib", 1)),
    ("fds", 4, _of("service_descriptors")),
    ("worker MiB", 10, _of("worker_mib", 1)),
    ("fds", 4, _of("worker_descriptors")),
    ("WAL MiB", 8, _of("wal_mib", 1)),
    ("dead tuples", 11, _of("dead_tuples")),
    ("tables MiB", 10, _of("tables_mib", 1)),
    ("indexes MiB", 11, _of("indexes_mib", 1)),
    ("outbox MiB", 10, _of("growing_mib", 1)),
    ("lag", 5, _of("lag_events")),
    ("lag s", 5, _of("lag_s", 1)),
)


class Result(msgspec.Struct):
    """All that a run has shown."""

    about: dict[str, str | float]
    """The rate, the length and the machine."""
    samples: list[Sample] = []
    errors: int = 0
    examples: list[str] = []
    """The first errors."""
    answers: dict[str, Counter[int]] = {}
    """The number of answers by operation and status; status 0: no answer."""
    errors_logged: list[str] = []
    verify: dict[str, Any] = {}

    def rises(self) -> list[Rise]:
        """Return the curves that keep rising."""
        return rises(self.samples)

    def problems(self) -> list[str]:
        """Return what makes the run fail."""
        problems = [f"an error: {text}" for text in self.examples]
        problems += [f"a program logged an error: {line}" for line in self.errors_logged]
        if self.verify["code"] != 0:
            problems.append(f"verify found faults: {self.verify['report']}")
        if float(self.about["minutes"]) >= JUDGED_MINUTES:
            level = [rise for rise in self.rises() if rise.curve.rule is Rule.LEVEL]
            problems += [f"keeps rising: {rise.text}" for rise in level]
        return problems


def head() -> str:
    """Return the table's first line."""
    return "  ".join(title.rjust(width) for title, width, _ in COLUMNS)


def row(sample: Sample) -> str:
    """Return the table's line of a sample."""
    return "  ".join(shown(sample).rjust(width) for _, width, shown in COLUMNS)


def conclusion(result: Result) -> list[str]:
    """Return what is printed after the table."""
    calls = sum(counts.total() for counts in result.answers.values())
    found = [rise.text for rise in result.rises()]
    lines = [f"{calls:,} calls, {result.errors:,} errors; verify: {result.verify}"]
    lines += ["curves that rose, medians of the second and the last quarter:"]
    lines += [f"  {text}" for text in found or ["none"]]
    if float(result.about["minutes"]) < JUDGED_MINUTES:
        lines.append(f"A run of less than {JUDGED_MINUTES} minutes fails for no curve.")
    return lines + [f"FAILED: {problem}" for problem in result.problems()]


def save(path: Path, result: Result) -> None:
    """Write the figures of every interval, the answers and the curves that rose as JSON."""
    rose = {rise.curve.field: {"second": rise.second, "last": rise.last} for rise in result.rises()}
    content = {**msgspec.structs.asdict(result), "rose": rose, "problems": result.problems()}
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(msgspec.json.format(msgspec.json.encode(content), indent=1) + b"\n")
