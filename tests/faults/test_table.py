"""Both programs under load during each fault, as callers and subscribers see it."""

import asyncio
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from deploy.local.postgres import PostgresServer
from tests.faults.alerts import wrong_pages
from tests.faults.counters import wrong_counters
from tests.faults.happenings import BEHIND_PGBOUNCER, FAULTS, READY_ANYWAY, REPEATS
from tests.faults.numbers import wrong_numbers
from tests.faults.observer import Observer
from tests.faults.stage import Stage, stage
from tests.faults.table import Row
from tests.support.parts.brokers import Broker, broker_behind_a_proxy
from tests.support.parts.postgres import make_database
from tests.support.waiting import last, until

BEFORE_S = 3
AFTER_S = 12
"""Longer than either program may need to recover, so that callers see the recovery."""
BACK_S = 20
"""The deadline for the next measurement of the lag, which must be 0."""
LONGEST_READ_S = 11
LONGEST_WRITE_S = 16
"""The deadlines of 10 s and 15 s (OpenAPI document), and a second for the client."""

pytestmark = pytest.mark.timeout(900)


@pytest.fixture(scope="module")
def broker() -> Iterator[Broker]:
    """Yield a broker whose clients go through a proxy."""
    with broker_behind_a_proxy() as broker:
        yield broker


@pytest.fixture
def server() -> Iterator[PostgresServer]:
    """Yield a Postgres that can have a standby."""
    with PostgresServer(settings={"max_wal_senders": "4"}) as server:
        asyncio.run(make_database(server))
        yield server


@pytest.mark.parametrize("name", FAULTS)
async def test_every_answer_is_true_and_no_event_is_lost(
    server: PostgresServer, broker: Broker, tmp_path: Path, rows: list[Row], name: str
) -> None:
    """Callers get correct answers or 503 in time; subscribers get each event once and in order."""
    pooled = name.endswith(BEHIND_PGBOUNCER)
    async with (
        stage(server, broker, tmp_path, pooled=pooled) as scene,
        Observer(scene) as observer,
    ):
        async with scene.callers:
            await last(BEFORE_S)
            began = time.monotonic()
            await FAULTS[name](scene)
            seconds = time.monotonic() - began
            await last(AFTER_S)
        events = await scene.settled()
        numbers = await _wrong_numbers(scene, observer, ready_anyway=name in READY_ANYWAY)
        row = _row(scene, name, seconds, events, numbers)
    rows.append(row)
    assert scene.callers.wrong == []
    assert numbers == []
    assert (row.lost, row.out_of_order) == (0, 0)
    assert row.twice == 0 or name in REPEATS
    assert row.longest_read_s <= LONGEST_READ_S
    assert row.longest_write_s <= LONGEST_WRITE_S


async def _wrong_numbers(scene: Stage, observer: Observer, *, ready_anyway: bool) -> list[str]:
    """Return the numbers that were wrong during the fault, and those that are wrong after it."""
    moments = [*observer.moments, await observer.look()]
    found = [
        *wrong_numbers(moments, ready_anyway=ready_anyway),
        *wrong_counters(scene, moments),
        *wrong_pages(moments),
    ]

    async def as_before() -> bool:
        now = await observer.look()
        leaders = [each for each in now.workers if each and each.value("outbox_leader") == 1]
        lags = [each.value("outbox_lag_events") for each in leaders if each.ready]
        return lags == [0]

    try:
        await until(as_before, BACK_S)
    except TimeoutError:
        found.append(f"{BACK_S} s after the last call there is still a lag, or no leader is ready")
    return found


def _row(scene: Stage, fault: str, seconds: float, events: set[str], numbers: Sequence[str]) -> Row:
    callers, audience = scene.callers, scene.audience
    return Row(
        fault=fault,
        seconds=seconds,
        calls=callers.count("calls"),
        unavailable=callers.count("unavailable"),
        wrong=len(callers.wrong),
        longest_read_s=callers.longest_s("read"),
        longest_write_s=callers.longest_s("write"),
        events=len(events),
        longest_event_s=audience.longest_s,
        lost=len(events - audience.times.keys()),
        twice=audience.twice,
        out_of_order=audience.out_of_order,
        wrong_numbers=len(numbers),
    )
