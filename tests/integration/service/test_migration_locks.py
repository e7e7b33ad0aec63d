"""How steps wait, are interrupted and run again; with steps that no release has."""

import asyncio
import re
from pathlib import Path

import asyncpg
import pytest

from service.core.errors import Unavailable
from service.store.database import Database
from service.store.migrations import apply
from service.store.migrations.apply import migrate
from service.store.migrations.plan import plan
from service.store.migrations.version import VERSION, SchemaError
from tests.support.parts.pooler import Pooler
from tests.support.parts.shared import execute
from tests.support.waiting import until

COLUMN = f"""-- A column
-- oldest programs: {VERSION}
-- lock: entities, ACCESS EXCLUSIVE, momentary
ALTER TABLE entities ADD COLUMN kind text;
"""
INDEX = f"""-- An index
-- oldest programs: {VERSION}
-- lock: entities, SHARE UPDATE EXCLUSIVE, scan
-- outside a transaction
CREATE INDEX CONCURRENTLY IF NOT EXISTS entities_created_idx ON entities (created_at);
"""
FIRST = f"{VERSION + 1:04}_column.sql"
SECOND = f"{VERSION + 2:04}_index.sql"
MIGRATED = f"schema {VERSION} is now schema {VERSION + 2}"
VALID = "SELECT indisvalid FROM pg_index WHERE indexrelid = to_regclass('entities_created_idx')"
BUILDING = """
SELECT a.pid
FROM pg_stat_activity AS a
WHERE a.datname = current_database() AND a.query LIKE '%CREATE INDEX CONCURRENTLY%' AND a.state = 'active'
    AND a.pid <> pg_backend_pid()
"""
# Databases that are copies of one template have tables with the same oids.
WAITING = """
SELECT count(*)
FROM pg_locks AS l
JOIN pg_database AS d ON d.oid = l.database
WHERE NOT l.granted AND l.relation = 'entities'::regclass AND d.datname = current_database()
"""
UNLOCKED = """
SELECT NOT EXISTS (
    SELECT FROM pg_locks AS l JOIN pg_database AS d ON d.oid = l.database
    WHERE l.locktype = 'advisory' AND d.datname = current_database()
)
"""
END_THE_LOCK = """
SELECT pg_terminate_backend(l.pid)
FROM pg_locks AS l
JOIN pg_database AS d ON d.oid = l.database
WHERE l.locktype = 'advisory' AND d.datname = current_database()
"""
VERSIONS = "SELECT array_agg(migration ORDER BY migration) FROM schema_version"


@pytest.fixture
def steps(tmp_path: Path) -> Path:
    """Return a folder of steps after the newest schema."""
    (tmp_path / FIRST).write_text(COLUMN)
    (tmp_path / SECOND).write_text(INDEX)
    return tmp_path


async def migrated(dsn: str, steps: Path) -> str:
    """Migrate as one process does; return what it says."""
    async with Database(dsn, pool_size=2) as database:
        return await migrate(database, steps)


async def test_two_at_once_apply_each_step_once(database: str, steps: Path) -> None:
    """Of five that begin together one applies the steps, although one builds an index concurrently."""
    done = await asyncio.gather(*(migrated(database, steps) for _ in range(5)))
    assert done.count(MIGRATED) == 1
    assert sum(each.startswith("schema is up to date") for each in done) == 4


@pytest.mark.parametrize("pool_mode", ["transaction", "session"])
async def test_behind_a_pooler(
    database: str, connection: asyncpg.Connection, steps: Path, pool_mode: str
) -> None:
    """Two at once behind a pooler apply each step once, and leave no lock behind."""
    with Pooler(database, pool_mode) as pooler:
        done = await asyncio.gather(*(migrated(pooler.url, steps) for _ in range(2)))
    assert min(done) == MIGRATED
    assert await connection.fetchval(VERSIONS) == [VERSION, VERSION + 1, VERSION + 2]
    assert await connection.fetchval(VALID) is True
    # Postgres ends the pooler's sessions a moment after the pooler itself has ended.
    await until(lambda: connection.fetchval(UNLOCKED))


async def test_a_step_does_not_queue_before_others(
    database: str, connection: asyncpg.Connection, steps: Path
) -> None:
    """While a transaction holds the table, others get it between the attempts; then the step runs."""
    holder = await asyncpg.connect(database)
    async with holder.transaction():
        await holder.execute("SELECT FROM entities")
        running = asyncio.create_task(migrated(database, steps))
        for _ in range(3):
            await until(lambda: connection.fetchval(WAITING))
            await connection.execute("SET lock_timeout = '5s'; SELECT FROM entities FOR UPDATE")
        assert not running.done()
        assert await connection.fetchval(VERSIONS) == [VERSION]
    assert await running == MIGRATED
    await holder.close()


async def test_a_lock_that_is_never_free_is_one_line(
    database: str, connection: asyncpg.Connection, steps: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The step gives up, names the session that holds the table, and has changed nothing."""
    monkeypatch.setattr(apply, "GIVE_UP_AFTER_S", 0.5)
    pid = connection.get_server_pid()
    async with connection.transaction():
        await connection.execute("SELECT FROM entities")
        with pytest.raises(SchemaError, match=rf"{re.escape(FIRST)} .* session {pid} "):
            await migrated(database, steps)
        assert await connection.fetchval(VERSIONS) == [VERSION]


async def test_an_interrupted_index_is_built_again(
    database: str, connection: asyncpg.Connection, steps: Path
) -> None:
    """An invalid index that an interrupted step has left is dropped and made anew."""
    holder = await asyncpg.connect(database)
    async with holder.transaction():  # the build waits for this snapshot
        await holder.execute("INSERT INTO workspaces (name) VALUES ('old')")
        await holder.execute("DECLARE c CURSOR FOR SELECT FROM workspaces")
        running = asyncio.create_task(migrated(database, steps))
        builder = await until(lambda: connection.fetchval(BUILDING))
        await until(lambda: connection.fetchval(f"SELECT ({VALID}) IS NOT NULL"))
        await connection.execute("SELECT pg_terminate_backend($1)", builder)
        with pytest.raises(Unavailable):
            await running
    assert await connection.fetchval(VALID) is False
    assert await connection.fetchval(VERSIONS) == [VERSION, VERSION + 1]
    assert await migrated(database, steps) == f"schema {VERSION + 1} is now schema {VERSION + 2}"
    assert await connection.fetchval(VALID) is True
    await holder.close()


async def test_an_index_that_postgres_still_builds_is_waited_for(
    database: str, connection: asyncpg.Connection, steps: Path
) -> None:
    """After a client was killed, the next one takes the index that the orphaned session completes."""
    holder = await asyncpg.connect(database)
    async with holder.transaction():  # the build waits for this snapshot
        await holder.execute("INSERT INTO workspaces (name) VALUES ('old')")
        await holder.execute("DECLARE c CURSOR FOR SELECT FROM workspaces")
        pool = Database(database, pool_size=2)
        async with pool:
            killed = asyncio.create_task(migrate(pool, steps))
            await until(lambda: connection.fetchval(f"SELECT ({VALID}) IS NOT NULL"))
            index = await connection.fetchval("SELECT 'entities_created_idx'::regclass::oid")
            pool._pool.terminate()  # noqa: SLF001 - as the kernel does with the sockets of a killed process
            with pytest.raises(Unavailable):
                await killed
        running = asyncio.create_task(migrated(database, steps))
        await until(lambda: connection.fetchval(WAITING))
    assert await running == f"schema {VERSION + 1} is now schema {VERSION + 2}"
    assert await connection.fetchval("SELECT 'entities_created_idx'::regclass::oid") == index
    assert await connection.fetchval(VALID) is True
    await holder.close()


async def test_limits_of_the_role_do_not_break_a_step(
    database: str, connection: asyncpg.Connection, steps: Path
) -> None:
    """Steps run although the database sets every time limit to less than they take."""
    name = database.rpartition("/")[2]
    for limit in ("statement_timeout", "lock_timeout", "idle_in_transaction_session_timeout"):
        await execute(database, f"ALTER DATABASE {name} SET {limit} = '50ms'")
    holder = await asyncpg.connect(database, server_settings={"lock_timeout": "0"})
    await holder.execute("SET statement_timeout = 0; SET idle_in_transaction_session_timeout = 0")
    async with holder.transaction():
        await holder.execute("INSERT INTO workspaces (name) VALUES ('old')")
        await holder.execute("DECLARE c CURSOR FOR SELECT FROM workspaces")
        running = asyncio.create_task(migrated(database, steps))
        await until(lambda: connection.fetchval(f"SELECT ({VALID}) IS NOT NULL"))
        await connection.execute("SELECT pg_sleep(0.2)")
        assert not running.done()
    assert await running == MIGRATED
    await holder.close()


async def test_plan_estimates_how_long_a_table_is_read(database: str, steps: Path) -> None:
    """Of an index it says that nothing waits, and how long the build takes."""
    async with Database(database, pool_size=2) as pool:
        text = await plan(pool, steps)
    assert text.endswith("SHARE UPDATE EXCLUSIVE: reads and writes go on, for about 1 s")


async def test_a_failed_step_leaves_nothing(
    database: str, connection: asyncpg.Connection, tmp_path: Path
) -> None:
    """A step that fails half way is rolled back, and the steps before it stay."""
    (tmp_path / FIRST).write_text(COLUMN)
    broken = COLUMN.replace("kind text", "other text; SELECT 1 / 0")
    (tmp_path / SECOND).write_text(broken)
    with pytest.raises(asyncpg.DivisionByZeroError):
        await migrated(database, tmp_path)
    assert await connection.fetchval(VERSIONS) == [VERSION, VERSION + 1]
    columns = await connection.fetchval(
        "SELECT array_agg(attname::text) FROM pg_attribute WHERE attrelid = 'entities'::regclass"
    )
    assert "kind" in columns
    assert "other" not in columns


async def test_a_lost_lock_does_not_end_the_migration(
    database: str, connection: asyncpg.Connection, steps: Path
) -> None:
    """If the session with the advisory lock is ended, the steps are completed and reported."""
    holder = await asyncpg.connect(database)
    async with holder.transaction():
        await holder.execute("SELECT FROM entities")
        running = asyncio.create_task(migrated(database, steps))
        await until(lambda: connection.fetchval(WAITING))
        assert await connection.fetchval(END_THE_LOCK) is True
    assert await running == MIGRATED
    assert await connection.fetchval(VERSIONS) == [VERSION, VERSION + 1, VERSION + 2]
    await holder.close()


@pytest.mark.parametrize("name", ["column.sql", FIRST])
async def test_a_file_that_is_no_step_is_an_error(tmp_path: Path, name: str) -> None:
    """A file without a number, or without what it has to declare, is refused before anything runs."""
    (tmp_path / name).write_text(
        COLUMN.replace("oldest programs", "oldest") if name[0] == "0" else COLUMN
    )
    with pytest.raises(ValueError, match=name):
        await migrated("postgresql://nowhere", tmp_path)
