"""The table of active links, through all that happens to a subscriber."""

import asyncio
import random
import signal

import asyncpg

from tests.acceptance.subscriber.conftest import Stage
from tests.support.service.api import seed, serving
from tests.support.service.callers import DOCUMENTS, Caller
from tests.support.topic.table import Member, active, expected, read_up_to_the_end
from tests.support.waiting import until

KILLS = 4
SUM = "SELECT coalesce(sum(next_offset), 0)::bigint FROM positions"


async def moves(table: asyncpg.Connection, records: int) -> None:
    """Return once the subscriber has applied so many more records."""
    await until(lambda: table.fetchval("SELECT to_regclass('positions') IS NOT NULL"))
    before = await table.fetchval(SUM)

    async def moved() -> bool:
        return bool(await table.fetchval(SUM) >= before + records)

    await until(moved)


async def test_the_table_is_exact_after_kills_at_any_moment(stage: Stage) -> None:
    """Killed again and again while calls of all kinds go on, it has the service's active links."""
    choice, stop = random.Random(7), asyncio.Event()
    async with serving(stage.database) as api:
        await seed(stage.connection, len(DOCUMENTS), 3)
        with (
            stage.worker(partitions=3) as worker,
            stage.member("one") as member,
        ):
            await worker.leading()
            calls = asyncio.create_task(Caller(api, 5).call_until(stop))
            before = 0
            for _ in range(KILLS):
                await moves(stage.table, choice.randint(1, 40))
                assert member.end(signal.SIGKILL) == -signal.SIGKILL
                before = len(member.given())
                member.start()
            stop.set()
            await calls
            await worker.wait_published(await stage.events())
            await read_up_to_the_end(stage.table, stage.kafka, stage.topic, member)
            assert await active(stage.table) == await expected(stage.connection) != set()
            await reads(member, before + 1)  # the killed one may have left it nothing to apply
            assert member.end() == 0


async def test_partitions_move_between_two_members(stage: Stage) -> None:
    """While events come, a second member takes partitions, and the first takes them back when it ends."""
    stop = asyncio.Event()
    async with serving(stage.database) as api:
        await seed(stage.connection, len(DOCUMENTS), 3)
        with (
            stage.worker(partitions=2) as worker,
            stage.member() as first,
        ):
            calls = asyncio.create_task(Caller(api, 5).call_until(stop))
            await reads(first, 2)
            with stage.member() as second:
                await reads(second, 1)
                await moves(stage.table, 20)
                before = len(first.given())
                assert second.end() == 0
            await reads(first, before + 2)
            await moves(stage.table, 20)
            stop.set()
            await calls
            await worker.wait_published(await stage.events())
            await read_up_to_the_end(stage.table, stage.kafka, stage.topic, first)
            assert await active(stage.table) == await expected(stage.connection) != set()


async def reads(member: Member, partitions: int) -> None:
    """Return once a member has been given partitions so many times."""

    async def given() -> bool:
        assert member.running, member.output()
        return len(member.given()) >= partitions

    await until(given)
