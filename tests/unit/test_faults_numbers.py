"""The observer of tests/faults finds wrong numbers, states and alerts, and no others."""

import pytest

from tests.faults.alerts import pages, wrong_pages
from tests.faults.numbers import wrong_numbers
from tests.faults.observer import Moment, Truth
from tests.faults.scraping import Scrape

SECONDS = 90
NO_LABELS: frozenset[tuple[str, str]] = frozenset()
CALM = Truth(due=0, oldest_s=0.0, transaction_s=0.0, leaders=1)
OK = Scrape({}, ready=True, status="ok")


def worker(status: str = "leading", **metrics: float) -> Scrape:
    """Return a worker's pages; without arguments, those of a leader without a lag."""
    shown = {"outbox_leader": float(status == "leading")} | metrics
    series = {(name, NO_LABELS): value for name, value in shown.items()}
    return Scrape(series, ready=True, status=status)


def moments(
    *workers: Scrape, waiting: bool = False, service: Scrape = OK, refused: bool = False
) -> list[Moment]:
    """Return 90 s without changes, except the age of the waiting events."""
    return [
        Moment(
            at=float(second),
            truth=CALM._replace(due=3, oldest_s=float(second)) if waiting else CALM,
            workers=workers,
            service=service,
            calls=10 * second,
            unavailable=10 * second if refused else 0,
        )
        for second in range(SECONDS)
    ]


def test_right_numbers_pass() -> None:
    """One leader without a lag, a standby without a lag, and a service that answers are right."""
    told = moments(worker(outbox_lag_seconds=0.2, outbox_lag_events=2), worker("standby"))
    assert wrong_numbers(told) == []
    assert list(wrong_pages(told)) == []


@pytest.mark.parametrize(
    ("told", "found"),
    [
        (moments(worker(outbox_lag_seconds=0), waiting=True), "outbox_lag_seconds of worker 0"),
        (moments(worker(outbox_lag_seconds=9)), "outbox_lag_seconds of worker 0"),
        (moments(worker(outbox_lag_events=999)), "outbox_lag_events of worker 0"),
        (moments(worker(), waiting=True), "no lag shows what waits"),
        (moments(worker(), worker()), "two workers lead"),
        (moments(worker("starting", outbox_leader=1)), "worker 0 is starting"),
        (moments(worker(), refused=True), "/readyz of the service is 200"),
        (moments(worker(), service=OK._replace(ready=False)), "/readyz of the service is 503"),
    ],
)
def test_wrong_numbers_are_found(told: list[Moment], found: str) -> None:
    """Each number and state that is wrong for longer than allowed is found."""
    assert any(found in problem for problem in wrong_numbers(told))


def test_pages_go_out_only_if_events_wait() -> None:
    """A missing leader sends a page within half a minute; a leader without a lag sends none."""
    assert list(wrong_pages(moments(worker("starting"), waiting=True))) == []
    assert "nobody is woken" in next(wrong_pages(moments(worker(), waiting=True)))
    assert "though no event waits" in next(wrong_pages(moments(worker("starting"))))


def test_the_pages_that_look_at_the_present_are_evaluated() -> None:
    """No rule is left out because its expression has another form."""
    assert [page.name for page in pages()] == [
        "OutboxNoLeader", "OutboxTwoLeaders", "OutboxLag", "OutboxLagUnknown",
    ]  # fmt: skip
