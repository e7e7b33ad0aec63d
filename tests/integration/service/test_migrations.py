"""Each step of the migrations: it leads to schema.sql, and takes the locks that it declares."""

import asyncio
import re
from uuid import uuid4

import asyncpg
import pytest

from outbox_worker.postgres.registration import KNOWN_SCHEMA
from service.store.database import Database
from service.store.migrations.apply import migrate
from service.store.migrations.plan import plan
from service.store.migrations.step import read_steps
from service.store.migrations.version import VERSION
from tests.support.parts.shared import execute
from tests.support.releases.history import RELEASES, schema_of
from tests.support.releases.objects import objects
from tests.support.service.api import Link, Service, new_key
from tests.support.waiting import until

NEWEST = "SELECT version, migration FROM schema_version ORDER BY migration DESC LIMIT 1"
GRANTS = (
    "CREATE ROLE {role}",
    "GRANT SELECT ON schema_version TO {role}",
    "REVOKE EXECUTE ON FUNCTION lock_and_read FROM PUBLIC",
    "GRANT EXECUTE ON FUNCTION lock_and_read TO {role}",
)
RIGHTS = """
SELECT has_table_privilege($1, 'schema_version', 'SELECT'),
    has_function_privilege($1, 'lock_and_read(uuid[],text[],text[],text[],boolean)', 'EXECUTE'),
    has_function_privilege('public', 'lock_and_read(uuid[],text[],text[],text[],boolean)', 'EXECUTE')
"""
# As an operator who trusts no default: the programs have a role of their own, which owns nothing.
PROGRAMS = (
    "ALTER DEFAULT PRIVILEGES REVOKE EXECUTE ON FUNCTIONS FROM PUBLIC",
    "CREATE ROLE {role} LOGIN",
    "GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA public TO {role}",
    "REVOKE EXECUTE ON ALL FUNCTIONS IN SCHEMA public FROM PUBLIC",
    "GRANT EXECUTE ON ALL FUNCTIONS IN SCHEMA public TO {role}",
)
NEW_TABLES = """
SELECT has_table_privilege($1, 'api_key_uses', 'SELECT')
        AND has_table_privilege($1, 'api_key_uses', 'INSERT')
        AND has_table_privilege($1, 'api_key_uses', 'UPDATE'),
    has_table_privilege($1, 'outbox_tasks', 'SELECT')
        AND has_table_privilege($1, 'outbox_tasks', 'INSERT')
        AND has_table_privilege($1, 'outbox_tasks', 'UPDATE')
        AND has_table_privilege($1, 'outbox_tasks', 'DELETE'),
    has_table_privilege($1, 'outbox_pause', 'SELECT')
        AND has_table_privilege($1, 'outbox_pause', 'INSERT')
        AND has_table_privilege($1, 'outbox_pause', 'DELETE')
"""
SIGNATURES = """
SELECT proname, pg_get_function_arguments(oid), pg_get_function_result(oid)
FROM pg_proc
WHERE pronamespace = current_schema()::regnamespace
"""
# The statement of release 0.1.
MAKE_DOCUMENT = """
INSERT INTO documents (workspace_id, id)
SELECT id, 'doc_1' FROM workspaces
ON CONFLICT DO NOTHING
RETURNING true
"""
# Each table and index, with the table that has the index.
RELATIONS = """
SELECT c.oid, coalesce(i.indrelid, c.oid)::regclass::text
FROM pg_class AS c
LEFT JOIN pg_index AS i ON i.indexrelid = c.oid
WHERE c.relnamespace = current_schema()::regnamespace
"""
# Of a session that waits for a lock: which table's, and the locks on documents for which a writer would wait.
WAITING = """
SELECT w.relation::regclass::text AS awaited, ARRAY(
    SELECT l.mode FROM pg_locks AS l
    WHERE l.pid = w.pid AND l.relation = 'documents'::regclass
        AND l.mode NOT IN ('AccessShareLock', 'RowShareLock', 'RowExclusiveLock')
) AS on_documents
FROM pg_locks AS w
JOIN pg_database AS d ON d.oid = w.database
WHERE NOT w.granted AND d.datname = current_database()
"""
LOCKS = "SELECT relation, mode FROM pg_locks WHERE pid = pg_backend_pid() AND relation = ANY ($1)"
MODES = (  # weakest first; nothing that reads or writes rows waits for the first three
    "ACCESS SHARE", "ROW SHARE", "ROW EXCLUSIVE", "SHARE UPDATE EXCLUSIVE", "SHARE",
    "SHARE ROW EXCLUSIVE", "EXCLUSIVE", "ACCESS EXCLUSIVE",
)  # fmt: skip


@pytest.fixture(params=[version for version in RELEASES if version < VERSION])
async def old_database(request: pytest.FixtureRequest, empty_database: str) -> str:
    """Return a database as an earlier release has made it."""
    await execute(empty_database, schema_of(request.param))
    return empty_database


async def migrated(dsn: str) -> str:
    """Migrate as one process does; return what it says."""
    async with Database(dsn, pool_size=2) as database:
        return await migrate(database)


async def test_steps_lead_to_the_whole_schema(
    old_database: str, connection: asyncpg.Connection
) -> None:
    """A database of an earlier release, after the steps, is like a new one, object by object."""
    assert re.fullmatch(rf"schema \d+ is now schema {VERSION}", await migrated(old_database))
    old = await asyncpg.connect(old_database)
    after_steps, new = await objects(old), await objects(connection)
    newest = [await each.fetchrow(NEWEST) for each in (old, connection)]
    await old.close()
    assert sorted(after_steps ^ new) == []
    assert len(new) > 400
    assert newest[0] == newest[1]
    assert newest[1] is not None
    assert newest[1]["migration"] == VERSION


async def test_the_comparison_finds_what_differs(
    database: str, connection: asyncpg.Connection
) -> None:
    """A setting, a comment, a grant and a storage parameter are each seen."""
    before = await objects(connection)
    await execute(
        database,
        "ALTER FUNCTION save_changes SET enable_seqscan = on",
        "COMMENT ON COLUMN api_keys.id IS 'another'",
        "GRANT SELECT ON outbox_07 TO PUBLIC",
        "ALTER TABLE documents SET (fillfactor = 70)",
    )
    kinds = {kind for kind, _ in before ^ await objects(connection)}
    assert kinds == {"function", "comment", "relation"}


async def test_a_role_that_may_write_documents_may_read_their_tombstones(
    old_database: str,
) -> None:
    """A service of the old release with rights on its tables alone makes documents after the steps."""
    role = f"role_{uuid4().hex}"
    await execute(
        old_database,
        f"CREATE ROLE {role}",
        f"GRANT SELECT, INSERT, UPDATE ON workspaces, documents TO {role}",
        "INSERT INTO workspaces (name) VALUES ('test')",
    )
    await migrated(old_database)
    await execute(
        old_database,
        "INSERT INTO erased_documents SELECT id, sha256('doc_1'), 7, 9 FROM workspaces",
    )
    connection = await asyncpg.connect(old_database)
    await connection.execute(f"SET ROLE {role}")
    await connection.execute(MAKE_DOCUMENT)
    counters = await connection.fetch("SELECT version, revision FROM documents")
    assert [tuple(row) for row in counters] == [(7, 10)]
    await connection.execute(f"RESET ROLE; DROP OWNED BY {role}; DROP ROLE {role}")
    await connection.close()


async def test_steps_keep_an_operators_grants(old_database: str) -> None:
    """Rights that were granted or revoked on a table or a function of the old release stay so."""
    role = f"role_{uuid4().hex}"
    await execute(old_database, *(each.format(role=role) for each in GRANTS))
    await migrated(old_database)
    connection = await asyncpg.connect(old_database)
    assert tuple(await connection.fetchrow(RIGHTS, role) or ()) == (True, True, False)
    await connection.execute(f"DROP OWNED BY {role}; DROP ROLE {role}")
    await connection.close()


async def test_the_programs_own_role_can_write_after_the_steps(old_database: str) -> None:
    """A role with rights to the tables and functions of the old release alone has those to the new ones."""
    role = f"role_{uuid4().hex}"
    key = await new_key(old_database)
    await execute(old_database, *(each.format(role=role) for each in PROGRAMS))
    await migrated(old_database)
    async with Service(old_database.replace("postgres@", f"{role}@")) as service:
        api = await service.api(key)
        made = await api.client.put("/v1/documents/doc_1", json={})
        known = await api.client.put("/v1/entities/deal/deal_1")
        linked = await api.link("doc_1", Link("deal", "deal_1"))
        removed = await api.client.delete("/v1/documents/doc_1")
    answers = [made, known, linked, removed]
    assert [each.status_code for each in answers] == [201, 201, 201, 200]
    connection = await asyncpg.connect(old_database)
    assert tuple(await connection.fetchrow(NEW_TABLES, role) or ()) == (True, True, True)
    await connection.close()
    await execute(old_database, f"DROP OWNED BY {role}; DROP ROLE {role}")


async def test_steps_make_objects_beside_the_tables(old_database: str) -> None:
    """A schema that precedes that of the tables in search_path gets no object."""
    name = old_database.rpartition("/")[2]
    path = f"ALTER DATABASE {name} SET search_path = later, public"
    await execute(old_database, "CREATE SCHEMA later", path)
    await migrated(old_database)
    await execute(old_database, "DROP SCHEMA later RESTRICT")
    async with Service(old_database) as service:
        api = await service.api(await new_key(old_database))
        assert (await api.client.put("/v1/documents/doc_1", json={})).status_code == 201


@pytest.mark.parametrize(
    "version", [each for each in RELEASES if each >= read_steps()[-1].oldest_programs]
)
async def test_functions_of_a_release_whose_programs_may_run_stay(
    version: int, empty_database: str, connection: asyncpg.Connection
) -> None:
    """Each function that such a release has made has the same parameters, their names, and result."""
    await execute(empty_database, schema_of(version))
    old = await asyncpg.connect(empty_database)
    called, present = await old.fetch(SIGNATURES), await connection.fetch(SIGNATURES)
    await old.close()
    assert len(called) > 0
    assert set(called) <= set(present)


def test_steps_are_numbered_without_a_gap() -> None:
    """The steps begin after the first schema and end at that of both programs."""
    assert [step.version for step in read_steps()] == list(range(2, VERSION + 1))
    assert KNOWN_SCHEMA == VERSION


async def test_steps_take_the_locks_that_they_declare(old_database: str) -> None:
    """The strongest lock on each table that was there before a step is the one in its first lines."""
    connection = await asyncpg.connect(old_database)
    names = {mode.title().replace(" ", "") + "Lock": mode for mode in MODES}
    for step in read_steps():
        assert step.in_transaction, "observe this step's locks from another session"
        tables = {row[0]: row[1] for row in await connection.fetch(RELATIONS)}
        async with connection.transaction():
            await connection.execute(step.sql)
            taken = await connection.fetch(LOCKS, list(tables))
        strongest: dict[str, str] = {}
        for relation, name in sorted(taken, key=lambda lock: MODES.index(names[lock["mode"]])):
            strongest[tables[relation]] = names[name]
        waited_for = {table: mode for table, mode in strongest.items() if mode not in MODES[:3]}
        assert waited_for == {lock.table: lock.mode for lock in step.locks}, step.name
    await connection.close()


async def test_a_dump_delays_the_steps_but_no_writer(old_database: str) -> None:
    """While pg_dump has its locks, the step that waits for one has none that a writer waits for."""
    dump, observer = await asyncpg.connect(old_database), await asyncpg.connect(old_database)
    async with dump.transaction():
        await dump.execute("LOCK TABLE documents, schema_version IN ACCESS SHARE MODE")
        running = asyncio.create_task(migrated(old_database))
        for _ in range(3):
            waiting = await until(lambda: observer.fetchrow(WAITING))
            assert waiting is not None
            assert (waiting["awaited"], waiting["on_documents"]) == ("schema_version", [])
        assert not running.done()
    assert re.fullmatch(rf"schema \d+ is now schema {VERSION}", await running)
    await dump.close()
    await observer.close()


async def test_plan_prints_the_steps_and_changes_nothing(old_database: str) -> None:
    """For each due step it says what may run beside it, and what it locks for how long."""
    old = await asyncpg.connect(old_database)
    before = await objects(old)
    async with Database(old_database, pool_size=2) as pool:
        text = await plan(pool)
    assert await objects(old) == before
    await old.close()
    first, *lines = text.splitlines()
    assert re.fullmatch(rf"schema \d+ becomes schema {VERSION}", first)
    assert "  beside: programs for schema 1 and later can run during and after it" in lines
    assert any(
        re.fullmatch(
            r"  locks: schema_version \(0\.\d MB\), ACCESS EXCLUSIVE: reads and writes wait, for "
            "some milliseconds",
            line,
        )
        for line in lines
    )


async def test_plan_of_other_databases(database: str, empty_database: str) -> None:
    """An empty database would get the whole schema, a migrated one nothing."""
    whole = f"the database is empty: schema.sql makes schema {VERSION} in one transaction"
    for dsn, said in (
        (empty_database, whole),
        (database, "schema is up to date"),
    ):
        async with Database(dsn, pool_size=2) as pool:
            assert await plan(pool) == said


async def test_service_that_started_before_the_migration_is_ready_after_it(
    old_database: str,
) -> None:
    """Until then it names the command, and refuses writes with 503; it needs no restart."""
    async with Service(old_database) as service:
        api = await service.api(await new_key(old_database))
        before = await api.client.get("/readyz")
        refused = await api.client.put("/v1/documents/doc_1", json={})
        await migrated(old_database)
        after = await api.client.get("/readyz")
        written = await api.client.put("/v1/documents/doc_1", json={})
    assert (before.status_code, refused.status_code) == (503, 503)
    assert f"this program needs {VERSION}: run `python -m service migrate`" in before.text
    assert (after.status_code, written.status_code) == (200, 201)
