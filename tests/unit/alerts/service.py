"""The cases of the service's alerts."""

from typing import Final

from tests.unit.alerts.case import DAYS, Case, gauge
from tests.unit.alerts.series import BUILD, RELAY, SERVICE, STORAGE_AWAY, SWEPT

DAYS_2: Final = 2 * 24 * 60
"""Two days in minutes."""

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
        "LinksExpiryLate",
        "the last sweep ended two days ago",
        SERVICE | {SWEPT: gauge((DAYS_2, 60), (60, 60), (60, 60 * DAYS_2))},
        quiet=DAYS_2,
        fires=DAYS_2 + 15,
        over=DAYS_2 + 60,
        pace=DAYS,
    ),
]
