"""The worker and its doctor behind PgBouncer: transactions are refused, sessions will do."""

import json
from collections.abc import Iterator

import pytest

from deploy.local.postgres import PostgresServer
from tests.support.parts.pooler import Pooler
from tests.support.parts.postgres import DATABASE
from tests.support.relay import writers
from tests.support.relay.worker import Worker
from tests.support.topic import topics
from tests.support.topic.reckoning import reckon
from tests.support.waiting import until

MEND = "set OUTBOX_SESSION_DATABASE_URL to the server itself"


@pytest.fixture
def pooler(server: PostgresServer) -> Iterator[Pooler]:
    """Yield a transaction pooler before the server."""
    with Pooler(server.dsn(DATABASE), "transaction") as pooler:
        yield pooler


def failed(worker: Worker) -> dict[str, str]:
    """Return the lines that a doctor with the worker's environment fails, each with its remedy."""
    worker.command("doctor", "--json")
    checks = json.loads(worker.output().splitlines()[-1])["checks"]
    return {check["name"]: check["mend"] for check in checks if not check["passed"]}


def test_doctor_finds_a_transaction_pooler(pooler: Pooler, kafka: str, topic: str) -> None:
    """The doctor fails that line alone, twice the same way, and says which variable mends it."""
    worker = Worker(pooler.url, kafka, topic)
    assert failed(worker) == {"session": MEND}
    assert failed(worker) == {"session": MEND}  # where the first one's statements are left behind


def test_doctor_passes_a_session_url_beside_it(
    server: PostgresServer, pooler: Pooler, kafka: str, topic: str
) -> None:
    """With the server's own URL for sessions nothing is left to mend."""
    direct = {"OUTBOX_SESSION_DATABASE_URL": server.dsn(DATABASE)}
    assert failed(Worker(pooler.url, kafka, topic, **direct)) == {}


async def test_worker_refuses_a_transaction_pooler(pooler: Pooler, kafka: str, topic: str) -> None:
    """The worker ends with one line that names the variable, without touching Kafka; so does `status`."""
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
    """Beside the pooler, over the server's own URL, each event is published once."""
    direct = {"OUTBOX_SESSION_DATABASE_URL": server.dsn(DATABASE)}
    with Worker(pooler.url, kafka, topic, **direct) as worker:
        await relays(server, kafka, topic, worker)


async def test_worker_relays_through_a_session_pooler(
    server: PostgresServer, kafka: str, topic: str
) -> None:
    """A pooler that lends whole sessions is as good as the server; its doctor says so too."""
    with (
        Pooler(server.dsn(DATABASE), "session") as pooler,
        Worker(pooler.url, kafka, topic) as worker,
    ):
        await relays(server, kafka, topic, worker)
        worker.end()
        assert failed(worker) == {}


async def relays(server: PostgresServer, kafka: str, topic: str, worker: Worker) -> None:
    """Link, unlink and restore for a while; the topic then holds just that."""
    await writers.prepare(server.dsn(DATABASE))
    await worker.leading()
    async with writers.writing(lambda: server.dsn(DATABASE), 2):
        await worker.wait_published(100)
    await reckon(server.dsn(DATABASE), kafka, topic)
