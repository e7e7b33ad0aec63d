"""Both programs emit what their `telemetry` lists, and nothing else; the operators' page shows it."""

import logging
from collections import defaultdict

import pytest
from prometheus_client import generate_latest

from outbox_worker.relay.metrics import Metrics as WorkerMetrics
from service.edge.gate.metrics import Metrics as ServiceMetrics
from service.logs import get_logger
from tests.telemetry.emitted import (
    EVENTS,
    METRICS,
    Watch,
    own_metrics,
    unlisted_in,
    unlisted_metrics,
)
from tests.telemetry.page import PAGE, page
from tests.telemetry.source import lasting_problems, log_calls, loggers

IN_LOGS_PY = "log.lines_dropped"
"""The one event that is not logged by a logger, but written by the handler of the lines."""


@pytest.mark.parametrize(
    ("program", "scraped"),
    [
        ("service", ServiceMetrics().render()),
        ("outbox_worker", generate_latest(WorkerMetrics().registry)),
    ],
    ids=["service", "worker"],
)
def test_the_metrics_are_the_listed_ones(program: str, scraped: bytes) -> None:
    """The program has each listed metric with its kind, meaning and labels, and no other."""
    assert {each.name for each in own_metrics(scraped.decode())} == METRICS[program].keys()
    assert unlisted_metrics(program, scraped.decode()) == []


def test_unlisted_metrics_are_found() -> None:
    """A metric, a kind or a label that is not listed is found in a scrape."""
    scraped = """
# TYPE links_unheard_of gauge
links_unheard_of 1
# TYPE links_rate_limit_storage_away_total counter
links_rate_limit_storage_away_total 1
# TYPE outbox_leader gauge
outbox_leader{colour="red"} 1
"""
    found = unlisted_metrics("service", scraped)
    assert sorted(found) == [
        "links_rate_limit_storage_away_total is not listed",
        "links_unheard_of is not listed",
        "outbox_leader is not listed",
    ]
    meaning = METRICS["outbox_worker"]["outbox_leader"].meaning
    leader = f"# HELP outbox_leader {meaning}\n# TYPE outbox_leader gauge\noutbox_leader"
    assert unlisted_metrics("outbox_worker", f"{leader} 1\n") == []
    (labelled,) = unlisted_metrics("outbox_worker", f'{leader}{{colour="red"}} 1\n')
    assert "'colour'" in labelled


def test_an_unlisted_metric_cannot_be_made() -> None:
    """A metric that is missing in the list cannot be made."""
    with pytest.raises(KeyError):
        WorkerMetrics()._gauge("outbox_unlisted")  # noqa: SLF001 - how every metric is made


def test_each_call_of_a_logger_is_listed() -> None:
    """Each call names its event and fields, and these and its level are the listed ones."""
    for call in log_calls():
        if call.event is None:
            assert call.where.startswith("supervision.py:")  # LastingProblem, see below
            continue
        listed = EVENTS[call.program][call.event]
        assert call.fields == listed.fields.keys(), call.where
        assert call.level is None or call.level in listed.level.split(" or "), call.where


def test_each_listed_event_is_logged() -> None:
    """Each event of the lists is logged somewhere in the program."""
    logged = defaultdict(set)
    for call in log_calls():
        logged[call.program].add(call.event)
    for program, failed, recovered in lasting_problems():
        logged[program] |= {failed, recovered}
        assert EVENTS[program][failed].fields.keys() >= {"error"}
        assert EVENTS[program][recovered].fields.keys() == {"failures"}
    for program, listed in EVENTS.items():
        assert logged[program] - {None} | {IN_LOGS_PY} == listed.keys(), program


def test_every_logger_is_found() -> None:
    """Each module has its logger as `log`, under which the calls above are found."""
    assert set(loggers()) == {"log"}


def test_no_field_has_the_name_of_an_attribute_of_log_records() -> None:
    """Fields become attributes of a log record, and the standard library refuses to replace its own."""
    attributes = vars(logging.makeLogRecord({})).keys() | {"message", "asctime"}
    for listed in EVENTS.values():
        assert not {name for each in listed.values() for name in each.fields} & attributes


@pytest.mark.parametrize("program", EVENTS)
def test_an_operator_finds_what_to_do(program: str) -> None:
    """Each warning and error has an action."""
    for event in EVENTS[program].values():
        assert event.action or event.level in {"debug", "info"}, event.name


def test_lines_that_are_not_listed_are_found() -> None:
    """An event, a level or a field that is not listed is found in a log; lines of libraries are skipped."""
    head = '{"time": "", "level": "info", "logger"'
    lines = [
        f'{head}: "uvicorn.error", "event": "Started"}}',
        f'{head}: "service", "event": "service.starting", "version": "1", "request_id": "r"}}',
        f'{head}: "service", "event": "service.unheard_of"}}',
        f'{head}: "service", "event": "http.failed"}}',
        f'{head}: "outbox_worker.relay", "event": "topic.made", "colour": "red"}}',
    ]
    assert unlisted_in("\n".join(lines)) == [
        "service.unheard_of is not listed",
        "http.failed is logged as info, and listed as error",
        "topic.made has the fields ['colour'], which are not listed",
    ]


def test_lines_of_this_process_are_checked(watch: Watch) -> None:
    """A line that is logged in a test's own process is checked, too."""
    log = get_logger("service.part")
    log.error("http.failed", path="/", colour="red")
    log.error("http.failed", path="/", exc_info=ValueError())
    assert watch.found == ["http.failed has the fields ['colour'], which are not listed"]
    watch.found.clear()


def test_the_page_is_made_from_the_lists() -> None:
    """deploy/telemetry.md is what `make telemetry` writes."""
    assert PAGE.read_text() == page()
