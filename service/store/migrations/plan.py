"""`migrate --plan`: which steps are due, and what they lock for how long."""

from pathlib import Path
from typing import TYPE_CHECKING, Final

from service.store.database import Database
from service.store.migrations.apply import LOCK_TIMEOUT_MS, check_empty
from service.store.migrations.step import DIRECTORY, Lock, Step, read_steps
from service.store.migrations.version import VERSION, check_not_too_new, read_schema

if TYPE_CHECKING:
    from service.store.database import Connection

WAITING: Final = {
    "ACCESS EXCLUSIVE": "reads and writes wait",
    "EXCLUSIVE": "writes wait",
    "SHARE ROW EXCLUSIVE": "writes wait",
    "SHARE": "writes wait",
}
"""What waits for a lock of each mode. Locks of other modes let reads and writes pass."""
SCAN_BYTES_PER_S: Final = 50_000_000
"""How fast Postgres builds an index or checks a constraint, at least, on the machine of the benchmarks."""

# A partitioned table has the size of its partitions.
SIZE: Final = """
SELECT coalesce(
    (SELECT sum(pg_total_relation_size(relid)) FROM pg_partition_tree(t)),
    pg_total_relation_size(t)
)::bigint
FROM to_regclass($1) AS t
"""


async def plan(database: Database, directory: Path = DIRECTORY) -> str:
    """Return what `migrate` would do, for an operator; takes no lock that another session waits for.

    Raises:
        SchemaError: the database has other tables, or a schema on which this program cannot run.
        Unavailable: the database is unreachable.
    """
    async with database.acquire() as connection:
        schema = await read_schema(connection)
        if schema is None:
            await check_empty(connection)
            return f"the database is empty: schema.sql makes schema {VERSION} in one transaction"
        check_not_too_new(schema)
        due = [step for step in read_steps(directory) if step.version > schema.version]
        if not due:
            return "schema is up to date"
        steps = [await _described(connection, step) for step in due]
    return "\n".join([f"schema {schema.version} becomes schema {due[-1].version}", *steps])


async def _described(connection: "Connection", step: Step) -> str:
    lines = [
        f"\n{step.name}: {step.title}",
        f"  beside: programs for schema {step.oldest_programs} and later can run during and after it",
        "  runs: in one transaction; it waits for a lock for "
        f"{LOCK_TIMEOUT_MS} ms, and tries again later"
        if step.in_transaction
        else "  runs: outside a transaction; it waits for all older transactions to end",
    ]
    for lock in step.locks:
        size = await connection.fetchval(SIZE, lock.table)
        lines.append(f"  locks: {_estimate(lock, size)}")
    return "\n".join(lines)


def _estimate(lock: Lock, size: int) -> str:
    waiting = WAITING.get(lock.mode, "reads and writes go on")
    duration = (
        "some milliseconds"
        if lock.duration == "momentary"
        else f"about {max(1, size // SCAN_BYTES_PER_S)} s"
    )
    return f"{lock.table} ({size / 1e6:,.1f} MB), {lock.mode}: {waiting}, for {duration}"
