"""Which curves of `make soak` rise, and what makes a run fail."""

from collections.abc import Callable, Sequence

import msgspec
import pytest

from tests.soak.curves import rises
from tests.soak.report import Result, conclusion, head, row
from tests.soak.samples import Sample

LEVEL = Sample(
    minute=1, rate=100, p50_ms=2, p99_ms=9, errors=0, service_mib=150, worker_mib=70,
    service_descriptors=120, worker_descriptors=20, wal_mib=10, dead_tuples=2000, tables_mib=3,
    indexes_mib=3, growing_mib=10, lag_events=3, lag_s=0.1,
)  # fmt: skip
MINUTES = 40
FINE = {"code": 0, "report": {"faults": {}}}


def run(**fields: Callable[[int], float | None]) -> list[Sample]:
    """Return the samples of a run: fields as functions of the minute, the others level."""
    return [
        msgspec.structs.replace(LEVEL, **{name: curve(minute) for name, curve in fields.items()})
        for minute in range(MINUTES)
    ]


def rose(samples: Sequence[Sample]) -> set[str]:
    """Return the fields that rise."""
    return {rise.curve.field for rise in rises(samples)}


@pytest.mark.parametrize(
    ("field", "a_minute"),
    [
        ("service_mib", 1.5),
        ("worker_mib", 1),
        ("service_descriptors", 1.5),
        ("worker_descriptors", 0.2),
        ("dead_tuples", 300),
    ],
)
def test_a_leak_rises_and_fails_the_run(field: str, a_minute: float) -> None:
    """Memory, descriptors and dead tuples that grow all the time are found, and named as a problem."""
    samples = run(**{field: lambda minute: getattr(LEVEL, field) + a_minute * minute})
    assert rose(samples) == {field}
    (problem,) = Result({"minutes": MINUTES}, samples, verify=FINE).problems()
    assert problem.startswith("keeps rising: ")
    assert Result({"minutes": 2}, samples, verify=FINE).problems() == []


@pytest.mark.parametrize(
    "curve",
    [
        lambda minute: 150 + 50 * min(1, minute / 10),  # the warm-up
        lambda minute: 150 + 60 * (minute % 7 == 0),  # peaks
        lambda minute: 150 + 60 * (20 <= minute < 30),  # a hill
        lambda minute: 200 - minute,
    ],
)
def test_warm_up_and_peaks_are_no_rise(curve: Callable[[int], float]) -> None:
    """A curve that rises in the first quarter, for a moment, or for a while, does not keep rising."""
    assert rose(run(service_mib=curve)) == set()


def test_what_must_grow_fails_nothing() -> None:
    """WAL and the outbox are shown as risen; so are slower answers; the run does not fail."""
    samples = run(wal_mib=lambda m: 5.0 * m, growing_mib=lambda m: m, p99_ms=lambda m: 5.0 + m)
    assert rose(samples) == {"wal_mib", "growing_mib", "p99_ms"}
    assert Result({"minutes": MINUTES}, samples, verify=FINE).problems() == []


def test_an_unknown_lag_is_no_value() -> None:
    """A minute in which the worker did not know its lag is shown as `?`, and left out of the curve."""
    samples = run(lag_s=lambda minute: None if minute % 2 else float(minute))
    assert rose(samples) == {"lag_s"}
    assert row(samples[1]).endswith("    ?")
    assert len(row(samples[1])) == len(head())


def test_errors_and_faults_fail_the_run() -> None:
    """A wrong answer, a logged error and a fault that `verify` found are a problem each."""
    result = Result(
        {"minutes": 2}, run(), 1, ["GET /healthz: 500"], {}, ["{}"], {"code": 1, "report": "x"}
    )
    problems = [line for line in conclusion(result) if line.startswith("FAILED: ")]
    assert len(problems) == len(result.problems()) == 3
