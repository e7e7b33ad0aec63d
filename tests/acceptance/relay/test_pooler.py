"""The worker and `doctor` behind PgBouncer: a transaction pooler is refused, a session pooler works."""

import json
from collections.abc import Iterator

import pytest

from deploy.local.postgres import PostgresServer
from tests.support.parts.pooler import Pooler
from tests.support.parts.postgres import DATABASE
from tests.support.relay.load import under_load
from tests.support.relay.worker import Worker
from tests.support.topic import topics
from tests.support.waiting import until

MEND = "set OUTBOX_SESSION_DATABASE_URL to the server itself"


@pytest.fixture
def pooler(server: PostgresServer) -> Iterator[Pooler]:
    """Yield a transaction pooler in front of the server."""
    with Pooler(server.dsn(DATABASE), "transaction") as pooler:
        yield pooler


def failed(worker: Worker) -> dict[str, str]:
    """Return the checks that `doctor` fails in the worker's environment, each with its remedy."""
    worker.command("doctor", "--json")
    checks = json.loads(worker.output().splitlines()[-1])["checks"]
    return {check["name"]: check["mend"] for check in checks if not check["passed"]}


def test_doctor_finds_a_transaction_pooler(pooler: Pooler, kafka: str, topic: str) -> None:
    """Only the check of sessions fails, the second time as well, and names the variable to set."""
    worker = Worker(pooler.url, kafka, topic)
    assert failed(worker) == {"session": MEND}
    assert failed(worker) == {"session": MEND}  # the pooler still has the first one's statements


def test_doctor_passes_a_session_url_beside_it(
    server: PostgresServer, pooler: Pooler, kafka: str, topic: str
) -> None:
    """With the server's own URL for sessions all checks pass."""
    direct = {"OUTBOX_SESSION_DATABASE_URL": server.dsn(DATABASE)}
    assert failed(Worker(pooler.url, kafka, topic, **direct)) == {}


async def test_worker_refuses_a_transaction_pooler(pooler: Pooler, kafka: str, topic: str) -> None:
    """The worker and `status` end with a line that names the variable; no topic is made."""
    with Worker(pooler.url, kafka, topic) as worker:
        await until(worker.ended)
        assert worker.end() == 1
        assert MEND in worker.output()
        assert await topics.places_of(kafka, topic) == []
        assert worker.command("status") == 1
        assert worker.output().count(MEND) == 2


async def test_worker_relays_over_a_session_url(
    server: PostgresServer, pooler: Pooler, kafka: str, topic: str
) -> None:
    """With the server's own URL for its sessions, the worker publishes each event once."""
    direct = {"OUTBOX_SESSION_DATABASE_URL": server.dsn(DATABASE)}
    async with under_load(server.dsn(DATABASE), kafka, topic, DATABASE_URL=pooler.url, **direct):
        pass


async def test_worker_relays_through_a_session_pooler(
    server: PostgresServer, kafka: str, topic: str
) -> None:
    """Behind a session pooler the worker publishes each event once, and all checks of `doctor` pass."""
    with Pooler(server.dsn(DATABASE), "session") as pooler:
        database = server.dsn(DATABASE)
        async with under_load(database, kafka, topic, DATABASE_URL=pooler.url) as worker:
            pass
        assert failed(worker) == {}
