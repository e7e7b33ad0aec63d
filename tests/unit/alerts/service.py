"""The cases of the service's alerts."""

from typing import Final

from tests.unit.alerts.case import ALWAYS, DAYS, HOURS, Case, counter, gauge
from tests.unit.alerts.series import (
    BUILD,
    FAILED,
    IN_TIME,
    KEY_ENDS,
    OLDEST_WRITE,
    RELAY,
    SERVICE,
    STORAGE_AWAY,
    SWEPT,
    UNKNOWN_COMMITS,
    UNREACHABLE,
)

DAYS_2: Final = 2 * 24 * 60
"""Two days in minutes."""

DURING_AN_HOUR: Final = gauge((60, 0), (60, 1), (ALWAYS, 0))


def _days(days: float, minutes: float) -> float:
    """Return a time so many days after a minute of the case, in seconds."""
    return days * 86_400 + minutes * 60


CASES: Final = [
    Case(
        "LinksNotScraped",
        "a job is no longer scraped",
        {BUILD: gauge((10, 1), (20, None), (60, 1))},
        quiet=10,
        fires=20,
        over=31,
    ),
    Case(
        "LinksNotScraped",
        "the only job is no longer scraped",
        RELAY | {BUILD: gauge((10, 1))},
        quiet=10,
        fires=20,
        beside=False,
    ),
    Case(
        "LinksNotScraped",
        "no service was ever scraped",
        RELAY,
        quiet=0.5,
        fires=2,
        of_job=False,
        beside=False,
    ),
    Case(
        "LinksRateLimitStorageUnreachable",
        "two processes cannot reach it",
        SERVICE | {STORAGE_AWAY % number: gauge((20, 0), (20, 1), (20, 0)) for number in (1, 2)},
        quiet=24,
        fires=26,
        over=41,
    ),
    Case(
        "LinksDatabaseUnreachable",
        "two processes cannot reach it: calls fail slowly, and writes wait",
        SERVICE
        | {UNREACHABLE % number: DURING_AN_HOUR for number in (1, 2)}
        | {OLDEST_WRITE % 1: gauge((60, 0), (60, 15), (ALWAYS, 0))}
        | {FAILED: counter((60, 0), (60, 1000), (ALWAYS, 0))}
        | {IN_TIME: counter((60, 1000), (60, 0), (ALWAYS, 1000))},
        quiet=60,
        fires=110,
        over=125,
    ),
    Case(
        "LinksDatabaseUnreachable",
        "an outage of the last hour uses the error budgets, and fires no other alert",
        SERVICE
        | {UNREACHABLE % 1: DURING_AN_HOUR}
        | {FAILED: counter((60, 0), (60, 1000), (ALWAYS, 0))}
        | {IN_TIME: counter((60, 1000), (60, 0), (ALWAYS, 1000))},
        quiet=55,
        fires=110,
        over=11 * 60,
        pace=HOURS,
    ),
    Case(
        "LinksWriterStuck",
        "writes of two processes wait, calls fail slowly",
        SERVICE
        | {OLDEST_WRITE % number: gauge((60, 0), (60, 15), (ALWAYS, 0)) for number in (1, 2)}
        | {FAILED: counter((60, 0), (60, 1000), (ALWAYS, 0))}
        | {IN_TIME: counter((60, 1000), (60, 0), (ALWAYS, 1000))},
        quiet=60.5,
        fires=110,
        over=125,
    ),
    Case(
        "LinksKeyExpires",
        "two processes know keys that expire in three days, which are not in use all the time",
        SERVICE
        | {
            KEY_ENDS % number: gauge((60, _days(3, 60)), (60, None), (60, _days(3, 60)))
            for number in (1, 2)
        },
        quiet=50,
        fires=90,
    ),
    Case(
        "LinksKeyExpires",
        "the key has expired",
        SERVICE | {KEY_ENDS % 1: gauge((30, None), (30, 3600))},
        quiet=29,
        fires=50,
        over=61,
    ),
    Case(
        "LinksKeyExpires",
        "the first key has expired, and the second one expires an hour later",
        SERVICE | {KEY_ENDS % 1: gauge((30, None), (30, 3600), (60, 7200))},
        quiet=29,
        fires=90,
        over=121,
    ),
    Case(
        "LinksCommitsUnknown",
        "two processes do not know the outcome of a COMMIT",
        SERVICE
        | {UNKNOWN_COMMITS % number: counter((15, 0), (0.5, 2), (ALWAYS, 0)) for number in (1, 2)},
        quiet=14,
        fires=17,
        over=28,
    ),
    Case(
        "LinksExpiryLate",
        "the last sweep ended two days ago",
        SERVICE | {SWEPT: gauge((DAYS_2, 60), (60, 60), (60, 60 * DAYS_2))},
        quiet=DAYS_2,
        fires=DAYS_2 + 15,
        over=DAYS_2 + 60,
        pace=DAYS,
    ),
]
