"""A worker is healthy as long as it makes progress."""

import logging

import pytest

from outbox_worker.relay.health import ANOTHER_LEADS_S, NO_PROGRESS_S, Health


class Clock:
    """A clock that a test sets."""

    now = 1_000.0

    def __call__(self) -> float:
        """Return the time."""
        return self.now


def test_no_progress_for_too_long_is_unhealthy() -> None:
    """Healthy until the deadline, unhealthy after it, healthy again with progress."""
    clock = Clock()
    health = Health(clock)
    clock.now += NO_PROGRESS_S
    assert health.healthy
    clock.now += 1
    assert not health.healthy
    health.progressed()
    assert health.healthy


def test_leaders_and_standbys_without_a_problem_are_ready() -> None:
    """A starting worker is not ready; after a problem, a worker is not ready until there is progress."""
    health = Health(Clock())
    assert not health.ready
    health.enter("standby")
    assert health.ready
    health.set_problem("KafkaConnectionError")
    assert not health.ready
    assert health.report()["problem"] == "KafkaConnectionError"
    health.progressed()
    assert health.ready


def test_standby_that_could_not_lead_is_healthy_and_not_ready(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """After failed checks, a standby is ready again after a successful check, or when it leads.

    Each kind of failure is logged once, although kinds alternate.
    """
    health = Health(Clock())
    with caplog.at_level(logging.INFO, logger="outbox_worker"):
        for obstacle in ("TimeoutError", "KafkaConnectionError", "TimeoutError"):
            health.set_obstacle(obstacle)
            health.enter_standby()
            assert (health.healthy, health.ready) == (True, False)
            assert health.report()["problem"] == obstacle
        health.clear_obstacle()
        assert health.ready
        health.set_obstacle("KafkaConnectionError")
        health.enter("leading")
        assert health.ready
    assert [record.getMessage() for record in caplog.records] == [
        "worker.standby_cannot_lead",
        "worker.state",
        "worker.standby_cannot_lead",
        "worker.standby_can_lead",
        "worker.standby_cannot_lead",
        "worker.state",
    ]


def test_workers_that_fail_in_turn_are_unhealthy() -> None:
    """Workers that fail in turn stay unhealthy; one that stands by for long, or was fenced, is healthy."""
    clock = Clock()
    health = Health(clock)
    for _ in range(4):
        health.set_problem("KafkaConnectionError")
        clock.now += NO_PROGRESS_S / 2
        health.enter_standby()
    assert not health.healthy
    assert not health.ready
    clock.now += ANOTHER_LEADS_S
    health.enter_standby()
    assert health.healthy
    assert health.ready
    health.set_problem("FencedError")
    health.enter_standby()
    assert health.ready


def test_a_standby_is_healthy_once_postgres_answers() -> None:
    """A standby that failed without the lock is healthy at once, because only Postgres had not answered."""
    clock = Clock()
    health = Health(clock)
    health.set_problem("TimeoutError", with_lock=False)
    clock.now += NO_PROGRESS_S + 1
    assert (health.healthy, health.ready) == (False, False)
    health.enter_standby()
    assert (health.healthy, health.ready) == (True, True)


def test_a_line_for_each_problem_and_not_for_each_retry(caplog: pytest.LogCaptureFixture) -> None:
    """The log has one line for a problem, one for another problem, and one for the end.

    The attempts to lead in between are logged once.
    """
    health = Health(Clock())
    with caplog.at_level(logging.INFO, logger="outbox_worker"):
        for problem in ("A", "A", "B", "A", "B"):
            health.enter("leading")
            health.enter("starting")
            health.set_problem(problem)
        health.enter("leading")
        health.progressed()
        health.progressed()
    lines = [(record.getMessage(), getattr(record, "state", None)) for record in caplog.records]
    attempt = [("worker.state", "leading"), ("worker.state", "starting"), ("worker.failing", None)]
    assert lines == [*attempt, *attempt, ("worker.recovered", None), ("worker.state", "leading")]
