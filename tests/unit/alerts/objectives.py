"""The cases of the alerts on error budgets: an hour without a fault, then a fault."""

from typing import Final

from tests.unit.alerts.case import ALWAYS, HOURS, Case, Values, counter, gauge
from tests.unit.alerts.series import (
    CALLS,
    EVENTS,
    FAILED,
    IN_TIME,
    LAG,
    RELAY,
    SERVICE,
    TIMED,
    UNROUTED,
    YOUNG,
)

END: Final = 11 * 60
"""More than 6 h after each fault, in minutes."""


def fault(minutes: float, growth: float, normal: float = 0) -> Values:
    """Return a counter that grows by another number for some minutes."""
    after = () if minutes == ALWAYS else ((ALWAYS, normal),)
    return counter((60, normal), (minutes, growth), *after)


CASES: Final = [
    Case(
        "LinksErrorBudgetFast",
        "5 % of the calls fail for half an hour",
        SERVICE | {FAILED: fault(30, 50)},
        quiet=60,
        fires=90,
        over=150,
        pace=HOURS,
    ),
    Case(
        "LinksErrorBudgetFast",
        "calls fail before their route is known, and slowly",
        SERVICE | {UNROUTED % 503: fault(30, 50), IN_TIME: fault(30, 500, normal=1000)},
        quiet=60,
        fires=90,
        over=END,
        pace=HOURS,
    ),
    Case(
        "LinksErrorBudgetFast",
        "one call in ten minutes, and all of them fail",
        SERVICE | {CALLS: fault(ALWAYS, 0, normal=0.1), FAILED: fault(ALWAYS, 0.1)},
        quiet=60 + 60,
        fires=60 + 180,
        pace=HOURS,
    ),
    Case(
        "LinksErrorBudgetSlow",
        "0.2 % of the calls fail for three hours",
        SERVICE | {FAILED: fault(180, 2)},
        quiet=110,
        fires=180,
        over=END,
        pace=HOURS,
    ),
    Case(
        "LinksLatencyBudgetFast",
        "half of the links take more than 100 ms for half an hour",
        SERVICE | {IN_TIME: fault(30, 500, normal=1000)},
        quiet=60,
        fires=90,
        over=150,
        pace=HOURS,
    ),
    Case(
        "LinksLatencyBudgetFast",
        "one link in ten minutes, and all of them take more than 100 ms",
        SERVICE | {TIMED: counter((ALWAYS, 0.1)), IN_TIME: fault(ALWAYS, 0, normal=0.1)},
        quiet=60 + 60,
        fires=60 + 180,
        pace=HOURS,
    ),
    Case(
        "LinksLatencyBudgetSlow",
        "2 % of the links take more than 100 ms for three hours",
        SERVICE | {IN_TIME: fault(180, 980, normal=1000)},
        quiet=110,
        fires=180,
        over=END,
        pace=HOURS,
    ),
    Case(
        "OutboxAgeBudgetFast",
        "half of the events are late for half an hour",
        RELAY | {YOUNG: fault(30, 500, normal=1000)},
        quiet=60,
        fires=90,
        over=150,
        pace=HOURS,
    ),
    Case(
        "OutboxAgeBudgetFast",
        "the brokers are slow: events are late, and a backlog grows",
        RELAY
        | {YOUNG: fault(30, 500, normal=1000)}
        | {LAG: gauge((80, 0), (10, 100), (ALWAYS, 0))},
        quiet=60,
        fires=85,
        pace=HOURS,
    ),
    Case(
        "OutboxAgeBudgetSlow",
        "2 % of the events are late for three hours",
        RELAY | {YOUNG: fault(180, 980, normal=1000)},
        quiet=110,
        fires=180,
        over=END,
        pace=HOURS,
    ),
    Case(
        "OutboxLag",
        "a backlog of an hour is published late, and fires no other alert",
        RELAY
        | {LAG: gauge((60, 0), (60, 1800), (ALWAYS, 0))}
        | {EVENTS: counter((60, 1000), (60, 0), (10, 10_000), (ALWAYS, 1000))}
        | {YOUNG: counter((60, 1000), (60, 0), (10, 0), (ALWAYS, 1000))},
        quiet=60,
        fires=100,
        over=135,
        pace=HOURS,
    ),
]
