"""Fixtures of the acceptance tests: a worker, a broker behind a proxy, a Postgres for one test."""

import asyncio
from collections.abc import AsyncIterator, Iterator

import pytest

from deploy.local.postgres import PostgresServer
from tests.support.faults.kafka import KafkaProxy
from tests.support.parts.brokers import Broker, broker_behind_a_proxy
from tests.support.parts.postgres import make_database
from tests.support.relay.worker import Worker
from tests.support.topic.rebuilt import TableSubscriber


@pytest.fixture(params=["exactly-once", "at-least-once"])
def delivery(request: pytest.FixtureRequest) -> str:
    """Return a delivery mode. With at-least-once delivery a subscriber skips repeated events."""
    return str(request.param)


@pytest.fixture
def worker(database: str, kafka: str, topic: str) -> Iterator[Worker]:
    """Yield a running worker."""
    with Worker(database, kafka, topic) as worker:
        yield worker


@pytest.fixture
async def subscriber(empty_database: str, topic: str) -> AsyncIterator[TableSubscriber]:
    """Yield the subscriber of deploy/subscriber, with empty tables in a database of its own."""
    async with TableSubscriber.on(empty_database, topic) as subscriber:
        yield subscriber


@pytest.fixture(scope="session")
def broker() -> Iterator[Broker]:
    """Yield a broker whose clients go through a proxy. Tests that use it share an xdist group."""
    with broker_behind_a_proxy() as broker:
        yield broker


@pytest.fixture
async def proxy(broker: Broker) -> AsyncIterator[KafkaProxy]:
    """Yield the proxy before the broker."""
    async with KafkaProxy("127.0.0.1", broker.behind, broker.proxy_port) as proxy:
        yield proxy


@pytest.fixture
def server() -> Iterator[PostgresServer]:
    """Yield a Postgres with a database whose WAL is flushed only by commits."""
    with PostgresServer(settings={"wal_writer_delay": "10s", "max_wal_senders": "4"}) as server:
        asyncio.run(make_database(server))
        yield server
