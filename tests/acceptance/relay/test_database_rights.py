"""The rights that a role needs for the worker and for each command, as in the runbook."""

import json
from collections.abc import AsyncIterator
from typing import Any
from uuid import uuid4

import asyncpg
import pytest

from tests.support.parts.postgres import END_SESSIONS
from tests.support.relay import links
from tests.support.relay.worker import Worker
from tests.support.topic import topics
from tests.support.waiting import until

WORKER = (
    "SELECT ON outbox, schema_version",
    "SELECT, INSERT ON outbox_relay",
    "SELECT, INSERT, DELETE ON outbox_checkpoints",
    "SELECT, INSERT, UPDATE, DELETE ON outbox_tasks",
    "SELECT, INSERT, DELETE ON outbox_pause",
    f"SELECT, TRUNCATE ON {', '.join(f'outbox_{slot:02}' for slot in range(16))}",
)
SNAPSHOT = "SELECT ON document_links, documents"
REBASE = "UPDATE ON outbox, outbox_relay"
DENIED = "InsufficientPrivilegeError"
TAKEN_AWAY = (
    "REVOKE EXECUTE ON FUNCTION pg_control_system(), pg_control_checkpoint() FROM PUBLIC",
    "ALTER FUNCTION pg_current_wal_lsn() RENAME TO not_here",
)
UNDETECTED = ["a copy of this database", "a failover that lost commits"]


@pytest.fixture
async def connection(connection: asyncpg.Connection) -> asyncpg.Connection:
    """Yield the owner's connection to a database with a document and an entity."""
    await links.seed(connection, 1, 1)
    return connection


@pytest.fixture
async def role(connection: asyncpg.Connection) -> AsyncIterator[str]:
    """Yield a role with the worker's rights."""
    name = f"relay_{uuid4().hex}"
    await connection.execute(f"CREATE ROLE {name} LOGIN")
    for right in WORKER:
        await connection.execute(f"GRANT {right} TO {name}")
    yield name
    await connection.execute(f"DROP OWNED BY {name}; DROP ROLE {name}")


@pytest.fixture
def as_role(database: str, role: str) -> str:
    """Return the database's URL for that role."""
    return database.replace("postgres@", f"{role}@")


async def test_rights_of_the_worker_and_of_each_command(
    database: str, kafka: str, topic: str, connection: asyncpg.Connection, role: str
) -> None:
    """The worker's rights are enough for it, `verify` and `replay`; `snapshot` and `rebase` need more."""
    with Worker(database.replace("postgres@", f"{role}@"), kafka, topic) as worker:
        await links.toggle(connection, "doc_1", "1")
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
    """See that a command fails without a right and succeeds with it."""
    assert worker.command(*command) == 1
    assert DENIED in worker.output().splitlines()[-1]
    await connection.execute(f"GRANT {right}")
    assert worker.command(*command) == 0, worker.output()


async def test_doctor_names_a_missing_right(
    database: str, kafka: str, topic: str, connection: asyncpg.Connection, role: str
) -> None:
    """Without SELECT on a slot `doctor` prints its GRANT; with all rights the check passes."""
    worker = Worker(database.replace("postgres@", f"{role}@"), kafka, topic)
    assert privileges(worker) == ""
    await connection.execute(f"REVOKE SELECT ON outbox_07 FROM {role}")
    assert privileges(worker) == f"GRANT SELECT ON outbox_07 TO {role};"


def privileges(worker: Worker) -> str:
    """Return the missing privileges that `doctor` prints."""
    return str(check_of(worker, "privileges")["mend"])


async def test_functions_that_a_managed_postgres_does_not_offer(
    as_role: str, kafka: str, topic: str, connection: asyncpg.Connection
) -> None:
    """Without these functions the worker publishes, and logs once which faults it cannot detect."""
    for statement in TAKEN_AWAY:
        await connection.execute(statement)
    doctor = Worker(as_role, kafka, topic)
    before_start = check_of(doctor, "relay")
    with Worker(as_role, kafka, topic) as worker:
        for terms in (1, 2):
            await until(lambda terms=terms: started(worker, terms))  # type: ignore[misc]
            await links.toggle(connection, "doc_1", "1")
            await topics.wait_for_count(kafka, topic, terms)
            await connection.execute(f"{END_SESSIONS} AND usename <> current_user")
        after_start = check_of(doctor, "relay")
        warned = [line for line in worker.log() if line["event"] == "relay.place_unreadable"]
    assert [line["undetected"] for line in warned] == [UNDETECTED]
    for check in (before_start, after_start):
        assert check["passed"]
        assert all(what in check["found"] for what in UNDETECTED)


async def started(worker: Worker, terms: int) -> bool:
    """Whether the worker has begun so many terms."""
    return [line["event"] for line in worker.log()].count("relay.started") >= terms


async def test_doctor_names_a_read_only_role(
    database: str, kafka: str, topic: str, connection: asyncpg.Connection, role: str
) -> None:
    """A role with default_transaction_read_only fails the check `primary`, which names the setting."""
    await connection.execute(f"ALTER ROLE {role} SET default_transaction_read_only = on")
    check = check_of(Worker(database.replace("postgres@", f"{role}@"), kafka, topic), "primary")
    assert not check["passed"]
    assert "default_transaction_read_only" in check["mend"]


def check_of(worker: Worker, name: str) -> dict[str, Any]:
    """Return one of the checks of `doctor`."""
    worker.command("doctor", "--json")
    checks: list[dict[str, Any]] = json.loads(worker.output().splitlines()[-1])["checks"]
    (check,) = (check for check in checks if check["name"] == name)
    return check
