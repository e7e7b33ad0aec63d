"""Where the measurements take place: one Postgres, one Kafka, databases seeded alike."""

from collections.abc import Iterator, Mapping
from contextlib import AsyncExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import asyncpg

from deploy.local.kafka import find_kafka
from deploy.local.postgres import Postgres, find_postgres
from deploy.local.programs import create_key, migrate

DOCUMENTS = 20_000
ENTITIES = 20_000
WORKSPACE = "bench"
# As durable as in production (fsync and synchronous_commit stay on); the rest keeps a
# checkpoint from falling into one measurement and not into the one beside it.
POSTGRES = {
    "shared_buffers": "512MB",
    "max_wal_size": "8GB",
    "checkpoint_timeout": "30min",
    "wal_level": "logical",  # Debezium's need; the same for all, so that all write the same WAL
}

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
FILL = Path(__file__).with_name("fill.sql").read_text()
PER_TRANSACTION = 100


@dataclass(frozen=True)
class Scale:
    """How much is measured."""

    seconds: int
    events: int
    backlog: int
    links: int
    requests: int
    peers: bool


@dataclass(frozen=True)
class Database:
    """A seeded database: its URL, its workspace's id and key."""

    dsn: str
    workspace: str
    key: str


class Stage:
    """What every measurement is handed."""

    def __init__(self, postgres: Postgres, bootstrap: str, logs: Path, scale: Scale) -> None:
        self.postgres = postgres
        self.bootstrap = bootstrap
        self.logs = logs
        self.scale = scale
        self.running = AsyncExitStack()
        """What was started and stays until the end."""
        self.relays: list[Any] = []
        self._templates: dict[int, Database] = {}

    async def make_database(self, name: str, events: int = 0) -> Database:
        """Return a database anew, with so many events in its outbox: a copy of one made once."""
        template = self._templates.get(events)
        if template is None:
            template = self._templates[events] = await self._make_template(events)
        source = template.dsn.rpartition("/")[2]
        await self.create(name, f"TEMPLATE {source} STRATEGY file_copy")
        return replace(template, dsn=self.postgres.dsn(name))

    async def create(self, name: str, options: str = "") -> str:
        """Make a database anew and return its URL."""
        await execute(
            self.postgres.dsn(),
            f"DROP DATABASE IF EXISTS {name} WITH (FORCE)",
            f"CREATE DATABASE {name} {options}",
        )
        return self.postgres.dsn(name)

    async def _make_template(self, events: int) -> Database:
        dsn = await self.create(f"bench_template_{events}")
        migrate(dsn)
        key = create_key(dsn, workspace=WORKSPACE)
        connection = await asyncpg.connect(dsn)
        try:
            await connection.execute(SEED, DOCUMENTS, WORKSPACE)
            await connection.execute(SEED_ENTITIES, ENTITIES, WORKSPACE)
            await connection.execute(FILL)
            workspace = await connection.fetchval("SELECT id FROM workspaces")
        finally:
            await connection.close()
        database = Database(dsn, str(workspace), key)
        if events:
            await fill(database, events)
        await execute(dsn, "VACUUM ANALYZE")
        return database


async def fill(database: Database, events: int) -> None:
    """Put events into the outbox, as the service would have."""
    connection = await asyncpg.connect(database.dsn)
    try:
        await connection.execute("SET synchronous_commit = off")  # only the filling is quicker
        await connection.execute("SET plan_cache_mode = force_generic_plan")
        call = "CALL fill_outbox($1, $2, $3, $4)"
        await connection.fetch(call, database.workspace, DOCUMENTS, events, PER_TRANSACTION)
        await connection.execute("VACUUM ANALYZE outbox")
        await connection.execute("CHECKPOINT")
    finally:
        await connection.close()


@contextmanager
def stage(scale: Scale) -> Iterator[Stage]:
    """Yield the stage; it is struck at the end."""
    with (
        TemporaryDirectory(prefix="document-links-bench-") as logs,
        find_postgres(POSTGRES) as postgres,
        find_kafka() as kafka,
    ):
        yield Stage(postgres, kafka.bootstrap, Path(logs), scale)


async def checkpoint(dsn: str) -> None:
    """Write out what the measurement before left behind, so that the next need not."""
    await execute(dsn, "CHECKPOINT")


async def execute(dsn: str, *statements: str) -> None:
    """Run each statement, outside a transaction."""
    connection = await asyncpg.connect(dsn)
    try:
        for statement in statements:
            await connection.execute(statement)
    finally:
        await connection.close()


async def fetch_row(dsn: str, query: str) -> Mapping[str, int]:
    """Return the first row of a query."""
    connection = await asyncpg.connect(dsn)
    try:
        rows = await connection.fetch(query)
        return dict(rows[0].items())
    finally:
        await connection.close()
