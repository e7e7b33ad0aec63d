"""The version of a database's schema, and whether this program can run on it."""

from typing import TYPE_CHECKING, Final, NamedTuple

from service.store.database import USE_A_POOLER_THAT_KEEPS_THEM, Database, unavailable

if TYPE_CHECKING:
    from service.store.database import Connection

VERSION: Final = 4
"""The schema that this program needs, and the newest one that it can migrate to."""

NO_SCHEMA: Final = (
    "the database has no schema of this program: run `python -m service migrate`; if that was done, "
    "correct the search_path of the role or the database"
)
READ_ONLY: Final = (
    "the database is read-only: default_transaction_read_only is on for the role, the database or "
    "the server"
)

# Another program may have a table `schema_version`, but not with `document_links` beside it.
IS_THIS_PROGRAMS: Final = """
SELECT true
FROM pg_class AS v
JOIN pg_class AS l ON l.relnamespace = v.relnamespace AND l.relname = 'document_links'
WHERE v.oid = to_regclass('schema_version')
"""

# The column `version` is the oldest schema whose programs can run: schema.sql says why it has this name. The
# first schema has no column `migration`, so the statement must not name it.
SCHEMA: Final = """
SELECT max(coalesce((to_jsonb(v) ->> 'migration')::integer, version)), max(version)
FROM schema_version AS v
"""


class SchemaError(Exception):
    """The database holds something that this program must not touch, or cannot run on."""


class Schema(NamedTuple):
    """A version of the schema, and the oldest version whose programs can run on it."""

    version: int
    oldest_programs: int


async def read_schema(connection: "Connection") -> Schema | None:
    """Return the schema that the database has; None: it has no schema of this program."""
    if not await connection.fetchval(IS_THIS_PROGRAMS):
        return None
    row = await connection.fetchrow(SCHEMA)
    return Schema(*row) if row is not None and row[0] is not None else None


def check_not_too_new(schema: Schema) -> None:
    """Raise SchemaError if a program of this version can no longer run on the schema."""
    if schema.oldest_programs > VERSION:
        raise SchemaError(
            f"the database has schema {schema.version}, on which programs for schema "
            f"{schema.oldest_programs} or later can run, and this one is for {VERSION}: update the program"
        )


async def check_version(connection: "Connection") -> None:
    """Raise SchemaError unless this program can run on the database's schema."""
    schema = await read_schema(connection)
    if schema is None:
        raise SchemaError(NO_SCHEMA)
    check_not_too_new(schema)
    if schema.version < VERSION:
        raise SchemaError(
            f"the database has schema {schema.version}, this program needs {VERSION}: "
            "run `python -m service migrate`"
        )


async def check_schema(database: Database) -> None:
    """Check that the database answers, can be written to and has a schema that this program can run on.

    Raises:
        SchemaError: it has another schema, is read-only, or a pooler loses prepared statements.
        Unavailable: it is unreachable.
    """
    with unavailable():
        if not await database.keeps_statements():
            raise SchemaError(USE_A_POOLER_THAT_KEEPS_THEM)
    async with database.acquire(ahead=True) as connection:
        await check_version(connection)
        if await connection.fetchval("SHOW transaction_read_only") == "on":
            raise SchemaError(READ_ONLY)
