"""Whether alerts of deploy/prometheus/alerts.yaml would page somebody, evaluated on the scraped metrics."""

import math
import re
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Final, NamedTuple

import yaml

from tests.faults.observer import Moment

ALERTS: Final = Path(__file__).parents[2] / "deploy" / "prometheus" / "alerts.yaml"
AGGREGATE: Final = re.compile(r"(sum|max) by \(job\) \((\w+)\) ([<>]) ([\d *]+)(?: <= ([\d *]+))?")
UNLESS: Final = re.compile(r"count by \(job\) \((\w+)\) unless count by \(job\) \((\w+)\)")
INHIBITED: Final = re.compile(r"\s*unless on \(job\).*")
"""A page that another page replaces: somebody is woken in either case."""
UNITS: Final = {"s": 1, "m": 60}
PAGED_AFTER_S: Final = 50.0
"""A page must go out before an event has waited for so long; the shortest `for` is 30 s."""
QUIET_S: Final = 5.0
"""While no event waits for longer, and one worker leads, no page may go out."""


class Page(NamedTuple):
    """An alert of severity `page`."""

    name: str
    holds: Callable[[Moment], bool]
    for_s: int


def pages() -> list[Page]:
    """Return the relay's alerts whose expressions need only present values, without `increase`."""
    groups = yaml.safe_load(ALERTS.read_text())["groups"]
    rules = next(group["rules"] for group in groups if group["name"] == "outbox-relay")
    woken = [rule for rule in rules if rule["labels"]["severity"] == "page"]
    return [
        Page(rule["alert"], holds, int(rule["for"][:-1]) * UNITS[rule["for"][-1]])
        for rule in woken
        if "for" in rule and (holds := _condition(rule["expr"]))
    ]


def wrong_pages(moments: Sequence[Moment]) -> Iterator[str]:
    """Yield missing pages, while events wait, and pages that go out without a reason."""
    known = pages()
    firing = [
        [page.name for page in known if _fires(page, moments[: number + 1])]
        for number in range(len(moments))
    ]
    for moment, fires in zip(moments, firing, strict=True):
        if moment.truth is not None and moment.truth.oldest_s > PAGED_AFTER_S and not fires:
            yield f"nobody is woken though an event waits for {moment.truth.oldest_s:.0f} s"
            return
    calm = all(each.truth is not None and each.truth.oldest_s < QUIET_S for each in moments)
    if calm and any(firing):
        yield f"somebody is woken though no event waits: {firing}"


def _fires(page: Page, moments: Sequence[Moment]) -> bool:
    """Whether the condition has held for the time in the rule's `for`."""
    now = moments[-1].at
    for moment in reversed(moments):
        if not page.holds(moment):
            return False
        if now - moment.at >= page.for_s:
            return True
    return False


def _condition(expression: str) -> Callable[[Moment], bool] | None:
    expression = INHIBITED.sub("", expression).strip()
    if found := AGGREGATE.fullmatch(expression):
        aggregate: Callable[[list[float]], float] = sum if found[1] == "sum" else max
        metric = found[2]
        limit, most = (
            math.prod(map(float, (each or "inf").split("*"))) for each in found.group(4, 5)
        )
        below = found[3] == "<"

        def compares(moment: Moment) -> bool:
            values = _values(moment, metric)
            if not values:
                return False
            value = aggregate(values)
            return value < limit if below else limit < value <= most

        return compares
    if found := UNLESS.fullmatch(expression):
        some, none = found[1], found[2]
        return lambda moment: bool(_values(moment, some) and not _values(moment, none))
    return None


def _values(moment: Moment, metric: str) -> list[float]:
    values = (worker.value(metric) for worker in moment.workers if worker is not None)
    return [value for value in values if value is not None]
