"""The metrics and states that the programs show, compared with an observer's counts of the same time.

A worker counts every 5 s and shows a count for at most 10 s, so a number is right if it was true within
the last 12 s, with a tolerance. Between two terms a worker counts from the newest checkpoint. This is up
to 10 s older than the published events, or more if Postgres was not writable, so the worker may show more.
"""

from collections.abc import Iterator, Sequence
from typing import Final, NamedTuple

from tests.faults.observer import Moment, Truth
from tests.faults.scraping import Scrape
from tests.faults.servers import LATE_EVENTS

WINDOW_S: Final = 12.0
TOLERANCE_S: Final = 3.0
TOLERANCE_EVENTS: Final = 50 + LATE_EVENTS
"""The lag is counted by positions, which includes those of open and of rolled back transactions."""
BETWEEN_TERMS_S: Final = 30.0
TOLD_AFTER_S: Final = 20.0
"""If an event waits for longer, a lag must show it, or no worker may say that it leads."""
READY_AFTER_S: Final = 15.0
"""The time within which the service's /readyz agrees with its answers."""


Problem = tuple[str, str]
"""A wrong number or state, and how it is wrong."""


class Looked(NamedTuple):
    """A moment with the moments of the last seconds before it."""

    now: Moment
    truths: tuple[Truth, ...]
    """Empty if Postgres did not answer the observer at one of these moments."""
    before: tuple[Moment, ...]


def wrong_numbers(moments: Sequence[Moment], *, ready_anyway: bool = False) -> list[str]:
    """Return each wrong number and state once, with the first time.

    If `ready_anyway`, the fault affects only the callers' calls, and the service may be ready.
    """
    found: dict[str, str] = {}
    for look in _looks(moments, WINDOW_S):
        for problem, detail in (*_lags(look), *_leaders(look), *_untold(look)):
            found.setdefault(problem, f"{look.now.at - moments[0].at:.0f} s: {problem}: {detail}")
    for look in _looks(moments, READY_AFTER_S):
        for problem, detail in () if ready_anyway else _readiness(look):
            found.setdefault(problem, f"{look.now.at - moments[0].at:.0f} s: {problem}: {detail}")
    return list(found.values())


def _looks(moments: Sequence[Moment], window_s: float) -> Iterator[Looked]:
    for number, now in enumerate(moments):
        if now.at - moments[0].at < window_s:
            continue
        first = next(n for n, each in enumerate(moments) if now.at - each.at <= window_s)
        before = tuple(moments[max(0, first - 1) : number + 1])
        truths = tuple(each.truth for each in before if each.truth is not None)
        yield Looked(now, truths if len(truths) == len(before) else (), before)


def _lags(look: Looked) -> Iterator[Problem]:
    """Yield lags that are too small or too large."""
    for number, worker in enumerate(look.now.workers):
        if worker is None or not look.truths:
            continue
        in_term = all(_leads(each.workers[number]) for each in look.before)
        beyond_s = TOLERANCE_S if in_term else BETWEEN_TERMS_S
        oldest = [truth.oldest_s for truth in look.truths]
        ages = [truth.transaction_s for truth in look.truths]
        due = [truth.due for truth in look.truths]
        most = max(due) + TOLERANCE_EVENTS if in_term else float("inf")
        for name, least, greatest in (
            ("outbox_lag_seconds", min(oldest) - TOLERANCE_S, max(oldest) + beyond_s),
            ("outbox_lag_events", min(due) - TOLERANCE_EVENTS, most),
            (
                "outbox_oldest_transaction_seconds",
                min(ages) - TOLERANCE_S,
                max(ages) + TOLERANCE_S,
            ),
        ):
            shown = worker.value(name)
            if shown is not None and not least <= shown <= greatest:
                yield (
                    f"{name} of worker {number}",
                    f"{shown:.1f}, not {least:.1f} to {greatest:.1f}",
                )


def _leads(worker: Scrape | None) -> bool:
    return worker is not None and worker.value("outbox_leader") == 1


def _leaders(look: Looked) -> Iterator[Problem]:
    """Yield disagreements between state, gauge and the lock in Postgres about the leader."""
    for number, worker in enumerate(look.now.workers):
        if worker is not None and _leads(worker) != (worker.status == "leading"):
            yield f"worker {number} is {worker.status}", f"{worker.value('outbox_leader')}"
    leading = [sum(map(_leads, moment.workers)) for moment in look.before]
    if min(leading) > 1:
        yield "two workers lead", f"{leading}"
    if look.truths and min(leading) > 0 and max(truth.leaders for truth in look.truths) == 0:
        yield "a worker leads", "no session holds the lock"


def _untold(look: Looked) -> Iterator[Problem]:
    """Yield waiting events that no lag shows, while a worker says that it leads."""
    waiting_s = min((truth.oldest_s for truth in look.truths), default=0.0)
    answering = [worker for worker in look.now.workers if worker is not None]
    if waiting_s > TOLD_AFTER_S and any(map(_leads, answering)):
        lags = [worker.value("outbox_lag_seconds") or 0.0 for worker in answering]
        if max(lags) < waiting_s - TOLERANCE_S:
            yield "no lag shows what waits", f"an event waits for {waiting_s:.0f} s, {lags}"


def _readiness(look: Looked) -> Iterator[Problem]:
    """Yield a /readyz that contradicts all answers of the service."""
    first, now = look.before[0], look.now
    calls, refused = now.calls - first.calls, now.unavailable - first.unavailable
    ready = [moment.service is not None and moment.service.ready for moment in look.before]
    if all(ready) and 0 < calls == refused:
        yield "/readyz of the service is 200", f"none of {calls} calls succeeds"
    if not any(ready) and calls > refused == 0:
        yield "/readyz of the service is 503", f"all of {calls} calls succeed"
