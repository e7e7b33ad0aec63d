"""Credentials that change while the worker runs, and those that the broker forgets.

Events flow within ten seconds from the moment at which the credentials are right again; nothing is
lost, and nothing comes twice.
"""

import asyncio
import shutil
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import asyncpg
import pytest

from tests.support.faults.tcp import FaultyProxy
from tests.support.parts.brokers import (
    PASSWORD,
    SCRAM,
    Broker,
    broker_behind_a_proxy,
    secured,
    set_password,
    tls_broker_behind_a_proxy,
    tls_listener,
)
from tests.support.parts.certificates import Authority
from tests.support.relay import outbox, writers
from tests.support.relay.worker import Worker
from tests.support.topic import topics
from tests.support.topic.reckoning import reckon
from tests.support.waiting import FAULT_S, last

RECOVERY_S = 10
SESSION_MS = 3_000
EXPIRED_AFTER_MS = 2_000
LOOK_EVERY_MS = 500
# One thread that stays: a broker ends with the thread that started it.
BESIDE = ThreadPoolExecutor(max_workers=1)

pytestmark = pytest.mark.xdist_group("credentials")


@pytest.fixture(scope="module")
def broker() -> Iterator[Broker]:
    """Yield a broker that ends sessions and forgets producers after seconds."""
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
    """Where the broker wants a connection authenticated anew every few seconds, no error is told."""
    topic = database.rpartition("/")[2]
    await writers.prepare(database)
    settings = {**broker.settings, "OUTBOX_DELIVERY": delivery}
    with Worker(database, f"127.0.0.1:{proxy.port}", topic, **settings) as worker:
        await worker.leading()
        async with writers.writing(lambda: database, 1):
            await worker.wait_published(20)
            await last(max(FAULT_S, 5 * SESSION_MS / 1000))
            await worker.wait_working(RECOVERY_S)
        await reckon(database, broker.inside, topic)
        assert "worker.failing" not in worker.output()


async def test_producer_is_forgotten_while_it_is_idle(
    database: str, broker: Broker, proxy: FaultyProxy, delivery: str
) -> None:
    """The first event after the transactional id has expired is there within 10 s, once."""
    topic = database.rpartition("/")[2]
    settings = {**broker.settings, "OUTBOX_DELIVERY": delivery}
    connection = await asyncpg.connect(database)
    with Worker(database, f"127.0.0.1:{proxy.port}", topic, **settings) as worker:
        await worker.leading()
        for number in range(1, 4):
            await outbox.insert_event(connection, "key", str(number))
            began = time.monotonic()
            await topics.wait_for_count(broker.inside, topic, number)
            assert time.monotonic() - began < RECOVERY_S
            await last(3 * EXPIRED_AFTER_MS / 1000)
        values = await topics.payloads(broker.inside, topic)
    await connection.close()
    assert values == [b"1", b"2", b"3"]


async def test_password_is_changed_and_changed_back(
    database: str, broker: Broker, proxy: FaultyProxy, delivery: str
) -> None:
    """The worker says that the broker refuses the password, and goes on once it is right."""
    topic = database.rpartition("/")[2]
    await writers.prepare(database)
    settings = {**broker.settings, "OUTBOX_DELIVERY": delivery}
    with Worker(database, f"127.0.0.1:{proxy.port}", topic, **settings) as worker:
        await worker.leading()
        async with writers.writing(lambda: database, 1):
            await worker.wait_published(20)
            await asyncio.to_thread(set_password, broker, "another-one")
            proxy.cut()
            said = await worker.wait_event("worker.failing")
            assert "refuses the SCRAM-SHA-512 user name or password" in said["detail"]
            await last(FAULT_S)
            await asyncio.to_thread(set_password, broker, PASSWORD)
            began = time.monotonic()
            await worker.wait_working()
            assert time.monotonic() - began < RECOVERY_S
        await reckon(database, broker.inside, topic, delivery)


class Mutual(NamedTuple):
    """A broker that wants a client certificate, and the files that it and the worker use."""

    broker: Broker
    authority: Authority
    folder: Path


@pytest.fixture
def mutual() -> Iterator[Mutual]:
    """Yield it, with certificates of a first CA."""
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
            yield Mutual(broker, by.authority, folder)


async def test_certificates_of_both_sides_are_replaced(database: str, mutual: Mutual) -> None:
    """A new CA signs the broker's and the client's certificate: the worker takes the new files."""
    topic = database.rpartition("/")[2]
    await writers.prepare(database)
    broker, folder = mutual.broker, mutual.folder
    async with FaultyProxy("127.0.0.1", broker.behind, broker.proxy_port) as proxy:
        with Worker(database, f"127.0.0.1:{proxy.port}", topic, **broker.settings) as worker:
            await worker.leading()
            async with writers.writing(lambda: database, 1):
                await worker.wait_published(20)
                replace_certificates(folder)
                await asyncio.get_running_loop().run_in_executor(BESIDE, restart, broker)
                began = time.monotonic()
                await worker.wait_working()
                assert time.monotonic() - began < RECOVERY_S
            await reckon(database, broker.inside, topic)


def replace_certificates(folder: Path) -> None:
    """Put the files of another CA in the place of each file in the folder."""
    other = folder / "other"
    other.mkdir()
    authority = Authority(other)
    authority.issue("client")
    authority.issue("broker-outer").in_one_file()
    for path in other.iterdir():
        shutil.copy(path, folder / path.name)


def restart(broker: Broker) -> None:
    """Restart the broker: it reads its files."""
    broker.cluster.stop()
    broker.cluster.start()
