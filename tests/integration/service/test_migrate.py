"""Migrating: an empty database gets the schema once; another database is not changed."""

import asyncio

import asyncpg
import pytest

from service.store.database import Database
from service.store.migrations.apply import migrate
from service.store.migrations.plan import plan
from service.store.migrations.version import VERSION, SchemaError, check_schema
from tests.support.parts.shared import execute
from tests.support.service.api import Service, serving

APPLIED, UP_TO_DATE = "schema applied", "schema is up to date"
NEWER = "INSERT INTO schema_version (version, migration) VALUES ({}, 1000)"
TABLES = "SELECT count(*) FROM pg_tables WHERE schemaname = 'public'"


async def migrated(dsn: str) -> str:
    """Migrate as one process does; return what it says."""
    async with Database(dsn, pool_size=2) as database:
        return await migrate(database)


async def tables(dsn: str) -> int:
    """Return the number of tables."""
    connection = await asyncpg.connect(dsn)
    try:
        count: int = await connection.fetchval(TABLES)
        return count
    finally:
        await connection.close()


async def test_empty_database_gets_the_schema(empty_database: str) -> None:
    """The first migration applies the schema, the second one changes nothing."""
    assert await migrated(empty_database) == APPLIED
    count = await tables(empty_database)
    assert count > 20
    assert await migrated(empty_database) == UP_TO_DATE
    assert await tables(empty_database) == count
    async with serving(empty_database) as api:
        assert (await api.client.get("/readyz")).status_code == 200


@pytest.mark.parametrize("isolation", ["read committed", "repeatable read"])
async def test_two_at_once_apply_it_once(empty_database: str, isolation: str) -> None:
    """Of several concurrent migrations one applies the schema, and none fails, at any default isolation."""
    name = empty_database.rpartition("/")[2]
    default = f"ALTER DATABASE {name} SET default_transaction_isolation = '{isolation}'"
    await execute(empty_database, default)
    done = await asyncio.gather(*(migrated(empty_database) for _ in range(5)))
    assert sorted(done) == [APPLIED, *[UP_TO_DATE] * 4]


async def test_newer_schema_is_refused(database: str) -> None:
    """A schema on which this program can no longer run is not changed, and the service is not ready."""
    await execute(database, NEWER.format(999))
    with pytest.raises(SchemaError, match=r"1000.*999 or later.*update the program"):
        await migrated(database)
    async with Database(database, pool_size=1) as pool:
        with pytest.raises(SchemaError, match="1000"):
            await check_schema(pool)


async def test_newer_schema_on_which_this_program_can_run_is_used(database: str) -> None:
    """After a later release was rolled back, the service is ready and `migrate` does nothing."""
    await execute(database, NEWER.format(VERSION))
    said = await migrated(database)
    assert said == f"{UP_TO_DATE}: 1000 is newer than {VERSION}, and this program can run on it"
    async with serving(database) as api:
        assert (await api.client.get("/readyz")).status_code == 200


@pytest.mark.parametrize(
    "foreign",
    [
        "CREATE TABLE theirs (n int)",
        "CREATE TABLE schema_version (version int); INSERT INTO schema_version VALUES (1)",
        "CREATE TABLE schema_version (version varchar(50), script text)",
    ],
)
async def test_foreign_tables_are_refused(empty_database: str, foreign: str) -> None:
    """A database with a table of another program is not changed, whatever the table's name is."""
    await execute(empty_database, foreign)
    for command in (migrate, plan):
        async with Database(empty_database, pool_size=2) as database:
            with pytest.raises(SchemaError, match=r"public is not empty.*not of this program"):
                await command(database)
    assert await tables(empty_database) == 1


async def test_search_path_without_a_schema_is_refused(empty_database: str) -> None:
    """If search_path names no schema that exists, the error says so."""
    name = empty_database.rpartition("/")[2]
    await execute(empty_database, f"ALTER DATABASE {name} SET search_path = missing")
    for command in (migrate, plan):
        async with Database(empty_database, pool_size=2) as database:
            with pytest.raises(SchemaError, match="search_path names no schema that exists"):
                await command(database)


async def test_schema_is_applied_whole_or_not_at_all(
    empty_database: str, monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """A schema that fails half way leaves the database empty."""
    broken = tmp_path_factory.mktemp("schema") / "schema.sql"
    broken.write_text("CREATE TABLE one (n int); CREATE TABLE two (n nonsense)")
    monkeypatch.setattr("service.store.migrations.apply.WHOLE", broken)
    with pytest.raises(asyncpg.PostgresError):
        await migrated(empty_database)
    assert await tables(empty_database) == 0


async def test_service_before_migration_says_so(empty_database: str) -> None:
    """Without the schema the service answers, is not ready, and names the command."""
    async with Service(empty_database) as service:
        client = await service.client(x_api_key="wbk_" + "x" * 52)
        ready = await client.get("/readyz")
        link = await client.get("/v1/documents/doc_1/links")
        alive = await client.get("/healthz")
    assert (ready.status_code, alive.status_code) == (503, 200)
    assert "service migrate" in ready.json()["detail"]
    assert (link.status_code, link.json()["code"]) == (503, "unavailable")


async def test_service_on_a_read_only_database_is_not_ready(database: str) -> None:
    """On a read-only database the service is not ready and says why; later it is ready again."""
    name = database.rpartition("/")[2]
    await execute(database, f"ALTER DATABASE {name} SET default_transaction_read_only = on")
    async with Service(database) as service:
        ready = await (await service.client()).get("/readyz")
    assert ready.status_code == 503
    assert "read-only" in ready.json()["detail"]
    undo = f"BEGIN READ WRITE; ALTER DATABASE {name} RESET default_transaction_read_only; COMMIT"
    await execute(database, undo)
    async with Service(database) as service:
        assert (await (await service.client()).get("/readyz")).status_code == 200
