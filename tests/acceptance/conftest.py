"""What acceptance tests run and break: a worker, a broker behind a proxy, a Postgres of the test's own."""

import asyncio
from collections.abc import AsyncIterator, Iterator

import pytest

from deploy.local.postgres import PostgresServer
from tests.support.faults.kafka import KafkaProxy
from tests.support.parts.brokers import Broker, broker_behind_a_proxy
from tests.support.parts.postgres import make_database
from tests.support.relay.worker import Worker


@pytest.fixture(params=["exactly-once", "at-least-once"])
def delivery(request: pytest.FixtureRequest) -> str:
    """Return a delivery: exactly once nothing comes twice, at least once a subscriber skips it."""
    return str(request.param)


@pytest.fixture
def worker(database: str, kafka: str, topic: str) -> Iterator[Worker]:
    """Yield a running worker."""
    with Worker(database, kafka, topic) as worker:
        yield worker


@pytest.fixture(scope="session")
def broker() -> Iterator[Broker]:
    """Yield a broker whose clients go through a proxy; the tests that use it are one group of xdist's."""
    with broker_behind_a_proxy() as broker:
        yield broker


@pytest.fixture
async def proxy(broker: Broker) -> AsyncIterator[KafkaProxy]:
    """Yield the proxy to it."""
    async with KafkaProxy("127.0.0.1", broker.behind, broker.proxy_port) as proxy:
        yield proxy


@pytest.fixture
def server() -> Iterator[PostgresServer]:
    """Yield a Postgres with a database, that flushes only what a commit makes it flush."""
    with PostgresServer(settings={"wal_writer_delay": "10s", "max_wal_senders": "4"}) as server:
        asyncio.run(make_database(server))
        yield server
