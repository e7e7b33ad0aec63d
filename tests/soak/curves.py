"""Which figures keep rising over a run."""

import statistics
from collections.abc import Sequence
from enum import Enum
from typing import Final, NamedTuple

from tests.soak.samples import Sample

QUARTERS: Final = 4
JUDGED_MINUTES: Final = 20
"""A shorter run fails for no curve: pools, caches and the interpreter's memory are still filling."""


class Rule(Enum):
    """What a curve may do."""

    LEVEL = "must not rise"
    SHOWN = "is shown only"
    GROWS = "grows with each change"


class Curve(NamedTuple):
    """A field of `Sample`. A rise counts from `part` of the value plus `slack` on."""

    field: str
    title: str
    rule: Rule
    part: float = 0.0
    slack: float = 0.0


class Rise(NamedTuple):
    """A curve that keeps rising: its medians in the second and in the last quarter of the run."""

    curve: Curve
    second: float
    last: float

    @property
    def text(self) -> str:
        """The rise in one line."""
        return (
            f"{self.curve.title}: {self.second:,.1f} → {self.last:,.1f} ({self.curve.rule.value})"
        )


CURVES: Final = (
    # A process of Python grows by a few per cent in its first 400,000 requests.
    Curve("service_mib", "memory of the service, MiB", Rule.LEVEL, part=0.10, slack=2),
    Curve("worker_mib", "memory of the worker, MiB", Rule.LEVEL, part=0.10, slack=2),
    # Each of the two processes has a pool of at most ten connections: it opens them while calls are slow, and
    # closes idle ones.
    Curve("service_descriptors", "descriptors of the service", Rule.LEVEL, slack=20),
    Curve("worker_descriptors", "descriptors of the worker", Rule.LEVEL, slack=2),
    # Autovacuum begins with a table when a fifth of its rows is dead: here, 2,000 links and 200 documents.
    Curve("dead_tuples", "dead tuples", Rule.LEVEL, part=0.20, slack=2_500),
    Curve("p50_ms", "p50, ms", Rule.SHOWN, part=0.20, slack=0.5),
    Curve("p99_ms", "p99, ms", Rule.SHOWN, part=0.20, slack=2),
    Curve("lag_s", "lag of the relay, s", Rule.SHOWN, part=0.20, slack=1),
    Curve("tables_mib", "tables, MiB", Rule.SHOWN, part=0.05, slack=0.5),
    Curve("indexes_mib", "indexes, MiB", Rule.SHOWN, part=0.05, slack=0.5),
    Curve("growing_mib", "outbox and stored replies, MiB", Rule.GROWS),
    Curve("wal_mib", "WAL, MiB", Rule.GROWS),
)


def rises(samples: Sequence[Sample]) -> list[Rise]:
    """Return the curves that keep rising; none if there are fewer samples than quarters.

    The first quarter is the warm-up. A curve keeps rising if the median of the last quarter exceeds
    that of the second by more than the curve may, and that of the third is between them.
    """
    found = []
    for curve in CURVES:
        values = [getattr(sample, curve.field) for sample in samples]
        known = [value for value in values if value is not None]
        if len(known) < QUARTERS:
            continue
        second, third, last = (statistics.median(_quarter(known, n)) for n in (1, 2, 3))
        if second <= third <= last and last > second * (1 + curve.part) + curve.slack:
            found.append(Rise(curve, second, last))
    return found


def _quarter(values: Sequence[float], number: int) -> Sequence[float]:
    size = len(values)
    return values[size * number // QUARTERS : size * (number + 1) // QUARTERS]
