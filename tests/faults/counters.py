"""The programs' counters at the end, compared with what callers and the consumer have counted."""

from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Final

from tests.faults.observer import Moment
from tests.faults.scraping import Scrape
from tests.faults.stage import Stage

UNCOUNTED_EVENTS: Final = 50
"""Events of batches that Kafka committed, but whose answers the worker did not get."""
LAST_PUBLISH_S: Final = 3.0
CALLED: Final = {"/v1/documents/{id}/links", "none"}
"""Routes of the callers' calls; none: the look-up of the key failed, which precedes the route."""


def wrong_counters(stage: Stage, moments: Sequence[Moment]) -> list[str]:
    """Return the wrong counters at the last moment, when no call and no relaying is in progress."""
    end = moments[-1]
    return [*_answers(stage, end.service), *_published(stage, moments), *_last_publish(stage, end)]


def _answers(stage: Stage, service: Scrape | None) -> Iterator[str]:
    """Yield numbers of answers that differ between the service and its callers.

    A process that is killed may have counted an answer that its caller did not get.
    """
    if service is None:
        yield "the service does not answer"
        return
    counted: Counter[tuple[str, str]] = Counter()
    for (name, labels), value in service.series.items():
        of = dict(labels)
        if name == "links_http_requests_total" and of["route"] in CALLED:
            counted[of["method"], of["status"]] += int(value)
    unanswered = stage.callers.count("unanswered")
    for each in counted.keys() | stage.callers.answers.keys():
        got = stage.callers.answers[each]
        if not got <= counted[each] <= got + unanswered:
            yield f"links_http_requests_total of {each} is {counted[each]}, callers got {got}"


def _published(stage: Stage, moments: Sequence[Moment]) -> Iterator[str]:
    """Yield numbers of events that differ between workers and consumer; a killed worker loses its count."""
    heard = sum(stage.audience.times.values())
    published = _last_values(moments, "outbox_events_published_total")
    killed = len(published) > len(stage.workers)
    least = 0 if killed else heard - UNCOUNTED_EVENTS
    if not least <= sum(published.values()) <= heard:
        yield f"outbox_events_published_total is {published}, the topic has {heard}"
    repeated = sum(_last_values(moments, "outbox_starts_total", source="checkpoint").values())
    if stage.audience.twice and not repeated and not killed:
        yield f"outbox_starts_total does not tell that {stage.audience.twice} events came twice"


def _last_values(
    moments: Sequence[Moment], name: str, **labels: str
) -> dict[tuple[int, float | None], float]:
    """Return a counter's last value in each process of each worker."""
    return {
        (number, worker.started): worker.value(name, **labels) or 0.0
        for moment in moments
        for number, worker in enumerate(moment.workers)
        if worker is not None
    }


def _last_publish(stage: Stage, end: Moment) -> Iterator[str]:
    name = "outbox_last_publish_timestamp_seconds"
    shown = max((worker.value(name) or 0.0 for worker in end.workers if worker), default=0.0)
    if abs(shown - stage.audience.last_at) > LAST_PUBLISH_S:
        yield f"{name} is {shown - stage.audience.last_at:.1f} s off"
