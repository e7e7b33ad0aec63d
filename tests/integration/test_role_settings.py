"""Settings of a role do no harm: the tests know all settings, and try the harmful ones together.

tests/faults tries each of them alone.
"""

import asyncio
from collections.abc import Mapping

import asyncpg
import pytest

from deploy.local.postgres import Postgres
from outbox_worker.postgres import sessions
from service.store.database import Database
from service.store.postgres.connection import SETTINGS
from tests.support.parts.role_settings import DECIDED, HURTFUL, settings_of
from tests.support.programs.main_jobs import both, ground
from tests.support.service.api import Service


async def test_every_setting_of_a_role_is_decided(postgres: Postgres) -> None:
    """A new setting of a new version of Postgres must be added to the tables."""
    connection = await asyncpg.connect(postgres.dsn())
    names = {setting["name"] for setting in await settings_of(connection)}
    await connection.close()
    assert len(names) > 150
    undecided = sorted(names - DECIDED)
    assert not undecided, f"decide about it in tests/support/parts/role_settings.py: {undecided}"


async def test_sessions_have_what_the_programs_rely_on(postgres: Postgres) -> None:
    """A session of either program has the settings of the code, whatever the role has."""
    hurtful = await known(postgres, HURTFUL)
    async with ground(postgres, hurtful) as at, Database(at.url, pool_size=1) as database:
        service = await database.connect()
        worker = await sessions.connect(at.url, "test", timeout_s=5)
        for session in (service, worker):
            for name, value in (await known(postgres, SETTINGS)).items():
                assert await session.fetchval("SELECT current_setting($1)", name) == value
        await sessions.disconnect(worker)
        await sessions.disconnect(service)


async def known(postgres: Postgres, settings: Mapping[str, str]) -> dict[str, str]:
    """Return the settings that this version of Postgres has."""
    connection = await asyncpg.connect(postgres.dsn())
    names = {setting["name"] for setting in await settings_of(connection)}
    await connection.close()
    return {name: value for name, value in settings.items() if name in names}


async def test_harmful_settings_have_no_effect(postgres: Postgres, kafka: str) -> None:
    """With these settings on its role each program answers and publishes as without them."""
    hurtful = await known(postgres, HURTFUL)
    async with ground(postgres, {}) as plain, ground(postgres, hurtful) as hurt:
        expected, found = await asyncio.gather(both(plain, kafka), both(hurt, kafka))
    assert found == expected


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        ("default_transaction_read_only", "on", "default_transaction_read_only"),
        ("search_path", "pg_catalog", "search_path"),
    ],
)
async def test_a_setting_that_is_respected_is_named(
    postgres: Postgres, name: str, value: str, said: str
) -> None:
    """The service is not ready, and names the setting."""
    async with ground(postgres, {name: value}) as at, Service(at.url) as service:
        ready = await (await service.client()).get("/readyz")
    assert ready.status_code == 503
    assert said in ready.json()["detail"]
