"""Credentials that change while the worker runs, and sessions and producers that the broker ends.

When the credentials are right again, events are published within ten seconds. None is lost; exactly
once, none is repeated.
"""

import asyncio
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import asyncpg
import pytest

from tests.support.faults.tcp import FaultyProxy
from tests.support.parts.brokers import (
    PASSWORD,
    SCRAM,
    Broker,
    beside,
    broker_behind_a_proxy,
    secured,
    set_password,
    tls_broker_behind_a_proxy,
    tls_listener,
)
from tests.support.parts.certificates import Authority
from tests.support.relay import outbox
from tests.support.relay.load import under_load
from tests.support.relay.worker import Worker
from tests.support.topic import topics
from tests.support.waiting import BUSY_S, FAULT_S, last

RECOVERY_S = 10 + BUSY_S
SESSION_MS = 3_000
EXPIRED_AFTER_MS = 2_000
LOOK_EVERY_MS = 500

pytestmark = pytest.mark.xdist_group("credentials")


@pytest.fixture(scope="module")
def broker() -> Iterator[Broker]:
    """Yield a broker that ends sessions and expires idle producers after a few seconds."""
    properties = {
        "connections.max.reauth.ms": str(SESSION_MS),
        "transactional.id.expiration.ms": str(EXPIRED_AFTER_MS),
        "transaction.remove.expired.transaction.cleanup.interval.ms": str(LOOK_EVERY_MS),
        "producer.id.expiration.ms": str(EXPIRED_AFTER_MS),
        "producer.id.expiration.check.interval.ms": str(LOOK_EVERY_MS),
    }
    with tls_broker_behind_a_proxy(properties) as broker:
        yield broker


async def test_sessions_end_under_load(
    database: str, broker: Broker, proxy: FaultyProxy, delivery: str
) -> None:
    """Sessions that end every few seconds, so that connections authenticate again, cause no error."""
    settings = {**broker.settings, "OUTBOX_DELIVERY": delivery}
    async with under_load(database, proxy.address, inside=broker.inside, **settings) as worker:
        await last(max(FAULT_S, 5 * SESSION_MS / 1000))
        await worker.wait_working(RECOVERY_S)
    assert "worker.failing" not in worker.output()


async def test_producer_expires_while_it_is_idle(
    database: str, connection: asyncpg.Connection, broker: Broker, proxy: FaultyProxy, delivery: str
) -> None:
    """The first event after the transactional id has expired is published once, within 10 s."""
    settings = {**broker.settings, "OUTBOX_DELIVERY": delivery}
    with Worker(database, proxy.address, **settings) as worker:
        await worker.leading()
        for number in range(1, 4):
            await outbox.insert_event(connection, "key", str(number))
            await topics.wait_for_count(broker.inside, worker.topic, number, RECOVERY_S)
            await last(3 * EXPIRED_AFTER_MS / 1000)
        values = await topics.payloads(broker.inside, worker.topic)
    assert values == [b"1", b"2", b"3"]


async def test_password_is_changed_and_changed_back(
    database: str, broker: Broker, proxy: FaultyProxy, delivery: str
) -> None:
    """The worker logs that the broker refuses the password, and recovers once it is right again."""
    settings = {**broker.settings, "OUTBOX_DELIVERY": delivery}
    async with under_load(database, proxy.address, inside=broker.inside, **settings) as worker:
        await asyncio.to_thread(set_password, broker, "another-one")
        proxy.cut()
        failing = await worker.wait_event("worker.failing")
        assert "refuses the SCRAM-SHA-512 user name or password" in failing["detail"]
        await last(FAULT_S)
        await asyncio.to_thread(set_password, broker, PASSWORD)
        await worker.wait_working(RECOVERY_S)


class Mutual(NamedTuple):
    """A broker that requires a client certificate, and the folder of its and the worker's files."""

    broker: Broker
    folder: Path


@pytest.fixture
def mutual() -> Iterator[Mutual]:
    """Yield the broker, with certificates of a first CA."""
    with secured() as by:
        folder = by.authority.cert.parent
        client = by.authority.issue("client")
        properties = {
            **by.properties,
            **tls_listener(by.authority, "outer"),
            "listener.name.outer.ssl.client.auth": "required",
        }
        settings = {
            **by.settings,
            "KAFKA_SSL_CERTFILE": str(client.cert),
            "KAFKA_SSL_KEYFILE": str(client.key),
        }
        with broker_behind_a_proxy(properties, SCRAM, settings) as broker:
            yield Mutual(broker, folder)


async def test_certificates_of_both_sides_are_replaced(database: str, mutual: Mutual) -> None:
    """The worker reads new files, in which another CA has signed the certificates of both sides."""
    broker, folder = mutual.broker, mutual.folder
    async with (
        FaultyProxy("127.0.0.1", broker.behind, broker.proxy_port) as proxy,
        under_load(
            database,
            proxy.address,
            inside=broker.inside,
            **broker.settings,
        ) as worker,
    ):
        replace_certificates(folder)
        await beside(restart, broker)
        await worker.wait_working(RECOVERY_S)


def replace_certificates(folder: Path) -> None:
    """Replace each file in the folder by that of another CA."""
    other = folder / "other"
    other.mkdir()
    authority = Authority(other)
    authority.issue("client")
    authority.issue("broker-outer").in_one_file()
    for path in other.iterdir():
        shutil.copy(path, folder / path.name)


def restart(broker: Broker) -> None:
    """Restart the broker, so that it reads its files again."""
    broker.cluster.stop()
    broker.cluster.start()
