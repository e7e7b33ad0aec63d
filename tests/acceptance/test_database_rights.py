"""What a role must be granted for the worker and each command, as the runbook has it."""

import json
from collections.abc import AsyncIterator
from uuid import uuid4

import asyncpg
import pytest

from tests import outbox, topics
from tests.worker import Worker

WORKER = (
    "SELECT ON outbox, schema_version",
    "SELECT, INSERT ON outbox_relay",
    "SELECT, INSERT, DELETE ON outbox_checkpoints",
    f"SELECT, TRUNCATE ON {', '.join(f'outbox_{slot:02}' for slot in range(16))}",
)
SNAPSHOT = "SELECT ON document_links, documents"
REBASE = "UPDATE ON outbox, outbox_relay"
DENIED = "InsufficientPrivilegeError"


@pytest.fixture
async def connection(database: str) -> AsyncIterator[asyncpg.Connection]:
    """Yield the owner's connection, to a database with a document and an entity."""
    connection = await asyncpg.connect(database)
    await outbox.seed(connection, 1, 1)
    yield connection
    await connection.close()


@pytest.fixture
async def role(connection: asyncpg.Connection) -> AsyncIterator[str]:
    """Yield a role that may do what the worker does."""
    name = f"relay_{uuid4().hex}"
    await connection.execute(f"CREATE ROLE {name} LOGIN")
    for right in WORKER:
        await connection.execute(f"GRANT {right} TO {name}")
    yield name
    await connection.execute(f"DROP OWNED BY {name}; DROP ROLE {name}")


async def test_rights_of_the_worker_and_of_each_command(
    database: str, kafka: str, topic: str, connection: asyncpg.Connection, role: str
) -> None:
    """The worker's are enough to relay, verify and replay; snapshot and rebase need more."""
    with Worker(database.replace("postgres@", f"{role}@"), kafka, topic) as worker:
        await outbox.toggle(connection, "doc_1", "1")
        await topics.wait_for_count(kafka, topic, 1)
        replay = ("replay", "--from", "2020-01-01", "--to", "2100-01-01", "--yes")
        for command in (("status",), ("verify",), replay):
            assert worker.command(*command) == 0, worker.output()
        await refused_until(connection, worker, f"{SNAPSHOT} TO {role}", "snapshot", "--yes")
        worker.end()
        assert "retention.failed" not in worker.output()
        await connection.execute("UPDATE outbox_relay SET system_identifier = '1'")
        await connection.execute("UPDATE outbox SET created_at = now() - interval '1 minute'")
        await refused_until(connection, worker, f"{REBASE} TO {role}", "rebase", "--yes")


async def refused_until(
    connection: asyncpg.Connection, worker: Worker, right: str, *command: str
) -> None:
    """See that a command fails for want of a right, and is carried out with it."""
    assert worker.command(*command) == 1
    assert DENIED in worker.output().splitlines()[-1]
    await connection.execute(f"GRANT {right}")
    assert worker.command(*command) == 0, worker.output()


async def test_doctor_misses_the_right_to_look_at_a_slot(
    database: str, kafka: str, topic: str, connection: asyncpg.Connection, role: str
) -> None:
    """With the worker's rights every privilege is there; without SELECT on a slot, its grant is named."""
    worker = Worker(database.replace("postgres@", f"{role}@"), kafka, topic)
    assert privileges(worker) == ""
    await connection.execute(f"REVOKE SELECT ON outbox_07 FROM {role}")
    assert privileges(worker) == f"GRANT SELECT ON outbox_07 TO {role};"


def privileges(worker: Worker) -> str:
    """Return what doctor finds missing."""
    worker.command("doctor", "--json")
    checks = json.loads(worker.output().splitlines()[-1])["checks"]
    (mend,) = (check["mend"] for check in checks if check["name"] == "privileges")
    return str(mend)
