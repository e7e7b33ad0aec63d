"""Figures by name, and what turns samples and processes into figures."""

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


def family(pid: int) -> list[int]:
    """Return a process and those that it has started."""
    tasks = Path(f"/proc/{pid}/task").iterdir()
    children = [int(child) for t in tasks for child in (t / "children").read_text().split()]
    return [pid, *(each for child in children for each in family(child))]


def cpu_s(pid: int) -> float:
    """Return the processor time that a process has used so far."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def family_cpu_s(pid: int) -> float:
    """Return the processor time that a process and those that it has started have used so far."""
    return sum(cpu_s(each) for each in family(pid))


def memory_mib(pid: int) -> float:
    """Return the memory that a process holds."""
    return _status_mib(pid, "VmRSS")


def peak_mib(pid: int) -> float:
    """Return the most memory that a process has held since `forget_peak`."""
    return _status_mib(pid, "VmHWM")


def forget_peak(pid: int) -> None:
    """Begin anew with the peak (Linux: proc_pid_clear_refs)."""
    Path(f"/proc/{pid}/clear_refs").write_text("5")


def _status_mib(pid: int, name: str) -> float:
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith(f"{name}:"):
            return int(line.split()[1]) / 1024
    return 0.0
