"""Both programs under load while each fault lasts: what callers and subscribers see of it."""

import asyncio
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from deploy.local.postgres import PostgresServer
from tests.brokers import Broker, broker_behind_a_line
from tests.faults.happenings import BEHIND_PGBOUNCER, FAULTS, REPEATS
from tests.faults.stage import Stage, stage
from tests.faults.table import Row
from tests.postgres import make_database
from tests.waiting import last

BEFORE_S = 3
AFTER_S = 12
"""Longer than either program may need to recover, so that callers see it."""
LONGEST_READ_S = 11
LONGEST_WRITE_S = 16
"""What is promised, 10 s and 15 s, and the time of a client on a busy machine."""

pytestmark = pytest.mark.timeout(900)


@pytest.fixture(scope="module")
def broker() -> Iterator[Broker]:
    """Yield a broker whose clients go through a line."""
    with broker_behind_a_line() as broker:
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
    """Callers get the truth or a 503 in time; subscribers get each event once and in order."""
    pooled = name.endswith(BEHIND_PGBOUNCER)
    async with stage(server, broker, tmp_path, pooled=pooled) as scene:
        async with scene.callers:
            await last(BEFORE_S)
            began = time.monotonic()
            await FAULTS[name](scene)
            seconds = time.monotonic() - began
            await last(AFTER_S)
        row = await _row(scene, name, seconds)
    rows.append(row)
    assert scene.callers.wrong == []
    assert (row.lost, row.out_of_order) == (0, 0)
    assert row.twice == 0 or name in REPEATS
    assert row.longest_read_s <= LONGEST_READ_S
    assert row.longest_write_s <= LONGEST_WRITE_S


async def _row(scene: Stage, fault: str, seconds: float) -> Row:
    events = await scene.settled()
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
    )
