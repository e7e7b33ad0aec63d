"""Each setting of a role alone, at each of its values or at the ends of its range, in both programs."""

import asyncio
from collections.abc import Iterator, Sequence

import asyncpg
import pytest

from deploy.local.postgres import Postgres
from tests.support.parts.role_settings import RESPECTED, other_values, settings_of
from tests.support.programs.main_jobs import both, ground

AT_ONCE = 3
TRY_S = 60

pytestmark = pytest.mark.timeout(1800)


async def test_each_setting_alone_does_no_harm(postgres: Postgres, kafka: str) -> None:
    """With the setting on its role each program answers and publishes as without it."""
    async with ground(postgres, {}) as plain:
        expected = await both(plain, kafka)
    connection = await asyncpg.connect(postgres.dsn())
    tried = [
        (setting["name"], str(value))
        for setting in await settings_of(connection)
        for value in other_values(setting)
        if setting["name"] not in RESPECTED
    ]
    await connection.close()
    assert len(tried) > 200
    harmed: list[str] = []
    queue = iter(tried)
    await asyncio.gather(
        *(try_all(queue, expected, harmed, postgres, kafka) for _ in range(AT_ONCE))
    )
    assert harmed == []


async def try_all(
    queue: Iterator[tuple[str, str]],
    expected: Sequence[str],
    harmed: list[str],
    postgres: Postgres,
    kafka: str,
) -> None:
    """Try one setting after another; note those with which the transcripts differ."""
    for name, value in queue:
        async with ground(postgres, {name: value}) as at:
            try:
                async with asyncio.timeout(TRY_S):
                    found = await both(at, kafka)
            except Exception as error:  # noqa: BLE001 - whatever it is, the setting made it
                found = [repr(error)]
        harmed += [f"{name} = {value}: {line}" for line in found if line not in expected]
