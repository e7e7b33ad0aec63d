"""The parts of the worker's page that need neither Postgres nor Kafka."""

import asyncio
import itertools
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from outbox_worker.page.changes import KEPT, Changes
from outbox_worker.page.history import SAMPLES, Figures, History, quantile
from outbox_worker.page.watched import Read, Watched
from outbox_worker.relay.health import Health
from tests.support.waiting import until


def test_the_last_changes_are_kept_with_their_fields() -> None:
    """The newest twenty lines are kept, the newest first, with level, event and fields."""
    changes = Changes()
    logger = logging.getLogger("outbox_worker")
    logger.addHandler(changes)
    try:
        health = Health()
        for number in range(KEPT + 5):
            health.set_problem(f"Problem{number}", detail="a reason", during="term.run")
    finally:
        logger.removeHandler(changes)
    newest, *others = changes.newest_first()
    assert (newest.level, newest.event) == ("error", "worker.failing")
    problem = f"Problem{KEPT + 4}"
    assert newest.fields == {"problem": problem, "detail": "a reason", "during": "term.run"}
    assert (len(others), others[-1].fields["problem"]) == (KEPT - 1, "Problem5")


def test_samples_are_those_of_the_last_hour() -> None:
    """There are at most SAMPLES, each with the rate since the one before; unknown values are None."""
    seconds = itertools.count(0, 10)

    def figures() -> Figures:
        at = next(seconds)
        known = at % 20 == 0
        ages = [3 * at, 4 * at, 5 * at]  # three of five events within 1 s, four within 2 s
        return Figures(at, 5.0 * at, at if known else None, 0.0006 if known else None, ages)

    history = History(figures, bounds=[1.0, 2.0])
    assert (history.rate(), list(history.columns().at)) == (None, [])
    for _ in range(SAMPLES + 2):
        history.sample()
    columns = history.columns()
    assert (len(columns.at), columns.at[0]) == (SAMPLES, 30)
    assert {*columns.events_per_second, history.rate()} == {5.0}
    assert list(columns.lag_events[:2]) == [None, 40]
    assert list(columns.lag_seconds[:2]) == [None, 0.001]
    assert (columns.hour_p50, columns.hour_p99) == (0.833, 2.0)
    assert {*columns.age_p50} == {0.833}


@pytest.mark.parametrize(
    ("share", "counts", "expected"),
    [
        (0.5, [0, 10, 10], 1.5),
        (0.5, [10, 10, 10], 0.5),
        (0.99, [0, 0, 10], 2.0),
        (0.5, [0, 0, 0], None),
    ],
    ids=["within a bucket", "in the first bucket", "above the last bound", "no events"],
)
def test_quantile(share: float, counts: list[float], expected: float | None) -> None:
    """A quantile is interpolated within its bucket, and is at most the last bound."""
    assert quantile(share, [1.0, 2.0], counts) == expected


class Source:
    """Counts its connections and its reads; a read fails while `error` is set."""

    connections = reads = 0
    error: Exception | None = None

    @asynccontextmanager
    async def connect(self) -> AsyncIterator[Read[int]]:
        """Connect."""
        self.connections += 1
        yield self.read

    async def read(self) -> int:
        """Return how often the value was read."""
        self.reads += 1
        if self.error is not None:
            raise self.error
        return self.reads


async def test_many_viewers_cost_no_more_than_one() -> None:
    """Nothing is read before the first request; a hundred requests share one connection and one read."""
    source = Source()
    watched = Watched(source.connect, every_s=60)
    running = asyncio.create_task(watched.run())
    await asyncio.sleep(0)
    assert source.connections == 0
    await asyncio.gather(*(watched.refresh() for _ in range(100)))
    assert (source.connections, source.reads, watched.value) == (1, 1, 1)
    running.cancel()


async def test_an_error_is_shown_and_ends() -> None:
    """After a failed read the value is unknown, and the problem is known until a read succeeds."""
    source = Source()
    source.error = ConnectionRefusedError("no server")
    watched = Watched(source.connect, every_s=0.001)
    running = asyncio.create_task(watched.run())
    await watched.refresh()
    assert (watched.value, watched.problem) == (None, "ConnectionRefusedError: no server")
    source.error = None

    async def mended() -> bool:
        return watched.problem is None

    await until(mended)
    assert watched.value is not None
    running.cancel()


@pytest.mark.parametrize("problem", ["problem", "obstacle"])
def test_a_problem_has_a_time_and_the_text_of_its_last_error(problem: str) -> None:
    """The time is that of the first error of this type; the text is that of the last one."""
    health = Health()
    note = health.set_problem if problem == "problem" else health.set_obstacle
    note("KafkaConnectionError", detail="first")
    since = health.problem_since
    note("KafkaConnectionError", detail="second")
    assert 0 < since == health.problem_since
    assert health.detail == "second"
