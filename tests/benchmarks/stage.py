"""Where the measurements take place: one Postgres, one Kafka, databases seeded alike."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import asyncpg

from deploy.local.kafka import find_kafka
from deploy.local.postgres import Postgres, find_postgres
from deploy.local.programs import create_key, migrate

DOCUMENTS = 20_000
ENTITIES = 20_000
WORKSPACE = "bench"
# As durable as in production (fsync and synchronous_commit stay on); the rest keeps a
# checkpoint from falling into one measurement and not into the one beside it.
POSTGRES = {"shared_buffers": "512MB", "max_wal_size": "8GB", "checkpoint_timeout": "30min"}

# The service with all that production has: only the rate that a caller is allowed is out of the way.
SERVICE = {"LINKS_RATE_LIMIT": "1000000/second"}

SEED = """
INSERT INTO documents (workspace_id, id)
SELECT workspaces.id, 'doc_' || n FROM workspaces, generate_series(1, $1::int) AS n WHERE name = $2
"""
SEED_ENTITIES = """
INSERT INTO entities (workspace_id, type, id)
SELECT workspaces.id, 'deal', 'deal_' || n FROM workspaces, generate_series(1, $1::int) AS n WHERE name = $2
"""


@dataclass(frozen=True)
class Database:
    """A seeded database: its URL, its workspace's id and key."""

    dsn: str
    workspace: str
    key: str


@dataclass(frozen=True)
class Stage:
    """What every measurement is handed."""

    postgres: Postgres
    bootstrap: str
    logs: Path

    async def make_database(self, name: str) -> Database:
        """Make a database anew, migrated and seeded, its statistics fresh."""
        server = await asyncpg.connect(self.postgres.dsn())
        try:
            await server.execute(f"DROP DATABASE IF EXISTS {name} WITH (FORCE)")
            await server.execute(f"CREATE DATABASE {name}")
        finally:
            await server.close()
        dsn = self.postgres.dsn(name)
        migrate(dsn)
        key = create_key(dsn, workspace=WORKSPACE)
        connection = await asyncpg.connect(dsn)
        try:
            await connection.execute(SEED, DOCUMENTS, WORKSPACE)
            await connection.execute(SEED_ENTITIES, ENTITIES, WORKSPACE)
            await connection.execute("VACUUM ANALYZE")
            workspace = await connection.fetchval(
                "SELECT id FROM workspaces WHERE name = $1", WORKSPACE
            )
        finally:
            await connection.close()
        return Database(dsn, str(workspace), key)


@contextmanager
def stage() -> Iterator[Stage]:
    """Yield the stage; it is struck at the end."""
    with (
        TemporaryDirectory(prefix="document-links-bench-") as logs,
        find_postgres(POSTGRES) as postgres,
        find_kafka() as kafka,
    ):
        yield Stage(postgres, kafka.bootstrap, Path(logs))


async def checkpoint(dsn: str) -> None:
    """Write out what the measurement before left behind, so that the next need not."""
    connection = await asyncpg.connect(dsn)
    try:
        await connection.execute("CHECKPOINT")
    finally:
        await connection.close()
