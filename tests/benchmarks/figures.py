"""Figures by name, and what turns samples into figures."""

import os
import statistics
from collections.abc import Sequence
from pathlib import Path

Figures = dict[str, float]
"""One round's results: `links.w1c32.rate` → 2345.6."""


def percentiles_ms(name: str, samples_ns: Sequence[int]) -> Figures:
    """Return `name.p50` and `name.p99` in milliseconds."""
    cuts = statistics.quantiles(samples_ns, n=100)
    return {f"{name}.p50": cuts[49] / 1e6, f"{name}.p99": cuts[98] / 1e6}


def cpu_s(pid: int) -> float:
    """Return the processor time that a process has used so far."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def peak_mib(pid: int) -> float:
    """Return the most memory that a process has held so far."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) / 1024
    return 0.0
