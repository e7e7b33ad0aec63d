"""The migration, which applies schema.sql to an empty database, and the check of the schema's version."""

from pathlib import Path
from typing import TYPE_CHECKING, Final

from service.store.database import USE_A_POOLER_THAT_KEEPS_THEM, Database, unavailable

if TYPE_CHECKING:
    from service.store.database import Connection

SCHEMA: Final = Path(__file__).parents[2] / "schema.sql"
VERSION: Final = 1

LOCK: Final = "SELECT pg_advisory_xact_lock(hashtext('document-links migrate'))"

NO_SCHEMA: Final = (
    "the database has no schema of this program: run `python -m service migrate`; if that was done, "
    "correct the search_path of the role or the database"
)
READ_ONLY: Final = (
    "the database is read-only: default_transaction_read_only is on for the role, the database or "
    "the server"
)

CURRENT_VERSION: Final = """
SELECT max(version)
FROM schema_version
"""

TABLES: Final = """
SELECT count(*)
FROM pg_class
WHERE relnamespace = current_schema()::regnamespace AND relkind IN ('r', 'p')
"""


class SchemaError(Exception):
    """The database holds something that this program must not touch."""


async def migrate(database: Database) -> bool:
    """Apply the schema if the database is empty; return whether it did. A lock admits one at a time.

    Raises:
        SchemaError: the database has other tables, or a schema that is newer than this program.
        Unavailable: the database is unreachable.
    """
    async with (
        database.acquire() as connection,
        # Read committed, so that it sees a migration that it has waited for.
        connection.transaction(isolation="read_committed"),
    ):
        await connection.execute(LOCK)
        version = await schema_version(connection)
        if version == VERSION:
            return False
        if version is not None:
            raise SchemaError(_wrong(version))
        if await connection.fetchval(TABLES):
            raise SchemaError(
                "the database is not empty, and its tables are not of this program: use another database"
            )
        await connection.execute(SCHEMA.read_text())
        return True


async def schema_version(connection: "Connection") -> int | None:
    """Return the version of the database's schema; None: it has no schema of this program."""
    if await connection.fetchval("SELECT to_regclass('schema_version')") is None:
        return None
    version: int | None = await connection.fetchval(CURRENT_VERSION)
    return version


async def check_version(connection: "Connection") -> None:
    """Raise SchemaError unless the database has the schema of this program."""
    version = await schema_version(connection)
    if version != VERSION:
        raise SchemaError(_wrong(version))


def _wrong(version: int | None) -> str:
    """Return the message for a wrong version: what is wrong, and what to do."""
    if version is None:
        return NO_SCHEMA
    if version > VERSION:
        return (
            f"the database has schema {version}, this program knows {VERSION}: update the program"
        )
    return f"the database has schema {version}, not {VERSION}: run `python -m service migrate`"


async def check_schema(database: Database) -> None:
    """Check that the database answers, can be written to and has the schema of this program.

    Raises:
        SchemaError: it has another schema, is read-only, or a pooler loses prepared statements.
        Unavailable: it is unreachable.
    """
    with unavailable():
        if not await database.keeps_statements():
            raise SchemaError(USE_A_POOLER_THAT_KEEPS_THEM)
    async with database.acquire() as connection:
        await check_version(connection)
        if await connection.fetchval("SHOW transaction_read_only") == "on":
            raise SchemaError(READ_ONLY)
