"""Faults under load; after them the topic, applied in order, gives exactly the active links.

Each fault lasts for some seconds in `make test`, and for a minute in `make test-faults`.
"""

import random
import signal
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import ExitStack

import asyncpg
import pytest

from deploy.local.kafka import KafkaCluster
from deploy.local.postgres import PostgresServer
from deploy.local.process import free_port
from outbox_worker.kafka.connections import LIMITS
from outbox_worker.kafka.reading import ReadStalledError, end_offsets
from tests.support.faults.postgres import PostgresProxy
from tests.support.faults.tcp import FaultyProxy
from tests.support.parts import shared
from tests.support.parts.brokers import Broker, beside
from tests.support.parts.postgres import DATABASE, END_SESSIONS, make_database
from tests.support.relay import writers
from tests.support.relay.load import under_load
from tests.support.relay.worker import Worker
from tests.support.topic import topics
from tests.support.topic.reckoning import DELIVERIES, reckon
from tests.support.waiting import BUSY_S, FAULT_S, LONG_S, TIMEOUT_S, last, until

# /healthz is 503 after 30 s without progress (runbook), which are counted from before the fault.
NO_PROGRESS_S = 20
STOP_S = 10 + BUSY_S  # 10 s: README
READY_S = 10 + BUSY_S  # 10 s: outbox_worker.relay.standby

pytestmark = pytest.mark.timeout(900)


async def delayed(proxy: FaultyProxy) -> None:
    """Delay everything by 50 ms."""
    proxy.delay_s = 0.05
    await last(FAULT_S)
    proxy.delay_s = 0.0


async def reset(proxy: FaultyProxy) -> None:
    """Reset all connections every 0.2 to 0.8 s."""
    choice = random.Random(1)
    for _ in range(int(FAULT_S * 2)):
        proxy.cut()
        await last(choice.uniform(0.2, 0.8))


async def silent(proxy: FaultyProxy) -> None:
    """Let nothing through; connections stay open."""
    proxy.silence()
    await last(FAULT_S + 10)  # longer than a leader's session may be silent, and than a transaction
    proxy.silence(silent=False)


FAULTS = {"delay": delayed, "resets": reset, "silence": silent}
Fault = Callable[[FaultyProxy], Awaitable[None]]


@pytest.mark.xdist_group("a proxy to Kafka")
@pytest.mark.parametrize("fault", FAULTS.values(), ids=FAULTS)
async def test_network_to_kafka(
    database: str, broker: Broker, proxy: FaultyProxy, fault: Fault, delivery: str
) -> None:
    """After each fault of the network to Kafka events are published, and none is lost."""
    async with under_load(database, proxy.address, inside=broker.inside, OUTBOX_DELIVERY=delivery):
        await fault(proxy)


@pytest.mark.xdist_group("a proxy to Kafka")
async def test_silent_kafka_makes_workers_unhealthy_and_delays_no_stop(
    database: str, broker: Broker, proxy: FaultyProxy
) -> None:
    """While events wait and Kafka is silent, /healthz of leader and standby is 503; SIGTERM works."""
    await writers.prepare(database)
    with Worker(database, proxy.address) as worker:
        await worker.leading()
        with Worker(database, proxy.address) as second:
            await second.wait_event("worker.state", state="standby")
            proxy.silence()
            async with writers.writing(database):

                async def unhealthy() -> bool:
                    pages = [await each.get("/healthz") for each in (worker, second)]
                    return all(page.status_code == 503 for page in pages)

                began = time.monotonic()
                await until(unhealthy, 2 * TIMEOUT_S)
                assert time.monotonic() - began > NO_PROGRESS_S
            worker.send(signal.SIGTERM)
            await until(worker.ended, STOP_S)
            assert worker.end() == 0
            proxy.silence(silent=False)
            worker.start()
            await reckon(database, broker.inside, worker.topic)


@pytest.mark.xdist_group("a proxy to Kafka")
async def test_standby_is_ready_only_while_it_reaches_kafka(
    database: str, broker: Broker, proxy: FaultyProxy
) -> None:
    """A silent Kafka makes a standby unready, not unhealthy; after the silence it is ready and can lead."""
    with Worker(database, broker.inside) as leader:
        await leader.leading()
        with Worker(database, proxy.address) as standby:
            await standby.wait_event("worker.state", state="standby")
            assert (await standby.get("/readyz")).status_code == 200
            proxy.silence()
            await standby.wait_event("worker.standby_cannot_lead")
            pages = [await standby.get(path) for path in ("/readyz", "/healthz")]
            assert [page.status_code for page in pages] == [503, 200]
            await last(FAULT_S)
            proxy.silence(silent=False)
            await standby.wait_event("worker.standby_can_lead", READY_S)
            assert (await standby.get("/readyz")).status_code == 200
            leader.end(signal.SIGKILL)
            await standby.leading()


EVENTS = 40
GROWS_S = 3
"""How much the lag has to grow: a gauge that is not updated would not."""
GAUGES = ("outbox_lag_seconds", "outbox_lag_events", "outbox_oldest_transaction_seconds")
ONE_EVENT = """
INSERT INTO outbox (event_id, event_type, key, payload)
VALUES (gen_random_uuid(), 'test.event', 'key', '1')
"""


async def shown(worker: Worker) -> set[str]:
    """Return the gauges that have a value."""
    page = (await worker.get("/metrics")).text
    return {name for name in GAUGES if f"\n{name} " in page}


async def cannot_lead(worker: Worker) -> bool:
    """Whether the worker's term has ended and no other could begin.

    That `worker.failing` was logged does not show it: a first attempt to lead may have failed too.
    """
    report = (await worker.get("/readyz")).json()
    return report["status"] == "starting" and report["problem"] is not None


async def lag_beyond(worker: Worker, seconds: float) -> bool:
    """Whether the lag is longer than so many seconds."""
    return await worker.metric("outbox_lag_seconds") > seconds


@pytest.mark.xdist_group("a proxy to Kafka")
async def test_lag_grows_while_kafka_is_silent_and_is_shown_by_leaders_only(
    database: str, broker: Broker, proxy: FaultyProxy
) -> None:
    """The lag grows although terms end or cannot begin; when another worker leads, it is not shown."""
    with Worker(database, proxy.address) as worker:
        await worker.leading()
        proxy.silence()
        await shared.execute(database, ONE_EVENT)
        await until(lambda: cannot_lead(worker))
        seen = await worker.metric("outbox_lag_seconds")
        await until(lambda: lag_beyond(worker, seen + GROWS_S))
        worker.end(signal.SIGKILL)
        worker.start()  # now there is no term to measure from, only its checkpoint
        await until(lambda: lag_beyond(worker, seen + 2 * GROWS_S))
        assert await worker.metric("outbox_lag_events") == 1
        with Worker(database, broker.inside) as other:
            await other.leading()
            await worker.wait_event("worker.state", state="standby")
            assert await shown(worker) == set()
        proxy.silence(silent=False)


async def test_lag_is_unknown_while_postgres_refuses_connections(
    database: str, kafka: str, topic: str
) -> None:
    """Without Postgres no worker can count: it shows no lag, not a lag of zero, and does not lead."""

    async def counted(*, known: bool) -> bool:
        leader = await worker.metric("outbox_leader")
        return (await shown(worker), leader) == ((set(GAUGES), 1) if known else (set(), 0))

    async with PostgresProxy(database) as proxy:
        with Worker(proxy.dsn, kafka, topic) as worker:
            await worker.leading()
            await until(lambda: counted(known=True))
            postgres, proxy.target = (
                proxy.target,
                ("127.0.0.1", free_port()),
            )  # nothing listens there
            proxy.cut()
            await until(lambda: counted(known=False))
            assert (await worker.get("/readyz")).status_code == 503
            proxy.target = postgres
            await until(lambda: counted(known=True))


@pytest.mark.xdist_group("a proxy to Kafka")
async def test_lag_grows_while_kafka_refuses_connections(database: str, broker: Broker) -> None:
    """The lag grows although each term ends at once; /readyz and the gauge of the leader agree."""
    async with FaultyProxy("127.0.0.1", broker.behind, broker.proxy_port) as proxy:
        stack = ExitStack()
        worker = stack.enter_context(Worker(database, proxy.address))
        await worker.leading()
    with stack:
        await shared.execute(database, *[ONE_EVENT] * EVENTS)
        await until(lambda: cannot_lead(worker))
        seen = await worker.metric("outbox_lag_seconds")

        async def grown() -> bool:
            seconds = await worker.metric("outbox_lag_seconds")
            return seconds > seen + GROWS_S and await worker.metric("outbox_lag_events") == EVENTS

        await until(grown)
        page = await worker.get("/readyz")
        assert (page.status_code, await worker.metric("outbox_leader")) == (503, 0)
        assert page.json()["status"] != "leading"


@pytest.mark.parametrize("fault", FAULTS.values(), ids=FAULTS)
async def test_network_to_postgres(
    database: str, kafka: str, topic: str, fault: Fault, delivery: str
) -> None:
    """After each fault of the worker's network to Postgres events are published, and none is lost."""
    async with PostgresProxy(database) as proxy:
        settings = {"DATABASE_URL": proxy.dsn, "OUTBOX_DELIVERY": delivery}
        async with under_load(database, kafka, topic, **settings):
            await fault(proxy)


async def test_postgres_crashes_and_sessions_are_ended(
    kafka: str, topic: str, delivery: str
) -> None:
    """After crashes of Postgres and ended sessions events are published, and none is lost."""
    with PostgresServer() as server:
        await make_database(server)
        database = server.dsn(DATABASE)
        async with under_load(database, kafka, topic, OUTBOX_DELIVERY=delivery) as worker:
            for _ in range(max(2, int(FAULT_S / 10))):
                await worker.wait_working()
                server.crash()
                server.start()
                await worker.wait_working()
                await shared.execute(database, END_SESSIONS)


LISTENING = """
FROM pg_stat_activity
WHERE datname = current_database() AND application_name = 'outbox_worker wake-up'
"""


async def test_session_that_listens_is_ended(
    database: str, kafka: str, topic: str, connection: asyncpg.Connection
) -> None:
    """The worker logs that its LISTEN session was ended, and listens on a new one."""
    with Worker(database, kafka, topic) as worker:
        await worker.leading()
        ended = await connection.fetch(f"SELECT pid, pg_terminate_backend(pid) {LISTENING}")
        await worker.wait_event("worker.failing", problem="HintsLostError")
        await worker.wait_event("worker.recovered", problem="HintsLostError")
        listening = await connection.fetch(f"SELECT pid {LISTENING}")
    assert (len(ended), len(listening)) == (1, 1)
    assert ended[0]["pid"] != listening[0]["pid"]


async def test_topic_that_deletes_records_or_has_grown_is_warned_of_once(
    database: str, kafka: str, topic: str
) -> None:
    """The worker logs a line when it finds either, and none in the next terms."""
    await topics.make(kafka, topic, partitions=2, configs={"retention.ms": "86400000"})
    end = f"SELECT pg_terminate_backend(pid) {LISTENING}"
    with Worker(database, kafka, topic) as worker:

        def said(event: str) -> int:
            return [line["event"] for line in worker.log()].count(event)

        async def begun(terms: int) -> None:
            async def look() -> bool:
                return said("relay.started") == terms

            await until(look)

        await begun(1)
        await topics.grow(kafka, topic, 3)
        for terms in (2, 3):
            await shared.execute(database, end)
            await begun(terms)
        assert (said("topic.forgets"), said("topic.grown")) == (1, 1)


@pytest.fixture(scope="module")
def cluster() -> Iterator[KafkaCluster]:
    """Yield three brokers."""
    with KafkaCluster(brokers=3) as cluster:
        yield cluster


async def kill_partition_leader(cluster: KafkaCluster, topic: str) -> None:
    """Kill the leader of a partition."""
    await kill_and_restart(cluster, await topics.leader(cluster.bootstrap, topic))


async def kill_coordinator(cluster: KafkaCluster, _: str) -> None:
    """Kill the transaction coordinator."""
    await kill_and_restart(cluster, await topics.leader(cluster.bootstrap, "__transaction_state"))


async def kill_and_restart(cluster: KafkaCluster, *nodes: int) -> None:
    """Kill brokers; start them again after FAULT_S."""
    for node in nodes:
        cluster.kill(node)
    await last(FAULT_S)
    for node in nodes:
        await beside(cluster.start_broker, node)


async def two_of_three(cluster: KafkaCluster, _: str) -> None:
    """Let two brokers hang: there is no quorum, and there are too few replicas for a write."""
    for node in (0, 1):
        cluster.pause(node)
    await last(max(FAULT_S, 12))
    for node in (0, 1):
        cluster.resume(node)


async def rolling_restart(cluster: KafkaCluster, _: str) -> None:
    """Restart one broker after the other."""
    for node in range(3):
        await beside(cluster.stop_broker, node)
        await beside(cluster.start_broker, node)


BrokerFault = Callable[[KafkaCluster, str], Awaitable[None]]
BROKER_FAULTS = {
    "partition leader": kill_partition_leader,
    "two of three": two_of_three,
    "rolling restart": rolling_restart,
}
EITHER_DELIVERY = set(BROKER_FAULTS) if FAULT_S >= LONG_S else {"partition leader"}
"""The faults that are tried with at-least-once delivery too. The others take a minute more."""
BROKER_CASES = [
    pytest.param(fault, delivery, id=f"{delivery}-{name}")
    for name, fault in BROKER_FAULTS.items()
    for delivery in DELIVERIES
    if delivery == "exactly-once" or name in EITHER_DELIVERY
]


@pytest.mark.xdist_group("three brokers")
@pytest.mark.parametrize(("fault", "delivery"), BROKER_CASES)
async def test_brokers(
    database: str, cluster: KafkaCluster, fault: BrokerFault, delivery: str
) -> None:
    """After brokers were killed, restarted or hung, events are published, and none is lost."""
    topic = database.rpartition("/")[2]
    async with under_load(database, cluster.bootstrap, topic, OUTBOX_DELIVERY=delivery):
        await fault(cluster, topic)


@pytest.mark.xdist_group("three brokers")
async def test_transaction_coordinator_dies(database: str, cluster: KafkaCluster) -> None:
    """Another broker coordinates the transactions. At-least-once delivery has none."""
    async with under_load(database, cluster.bootstrap):
        await kill_coordinator(cluster, "")


@pytest.mark.xdist_group("three brokers")
async def test_partition_without_a_leader_is_named(database: str, cluster: KafkaCluster) -> None:
    """An unready standby and a read of end offsets both name a partition that has no leader."""
    topic = database.rpartition("/")[2]
    client = {**LIMITS, "bootstrap_servers": cluster.bootstrap}
    await topics.make(cluster.bootstrap, topic, 3, {})  # each partition has one replica
    node = await topics.leader(cluster.bootstrap, topic)
    with Worker(database, cluster.bootstrap) as leader:
        await leader.leading()
        with Worker(database, cluster.bootstrap) as standby:
            await standby.wait_event("worker.state", state="standby")
            cluster.kill(node)
            named = await standby.wait_event(
                "worker.standby_cannot_lead", problem="LeaderNotAvailableError"
            )
            with pytest.raises(ReadStalledError, match=rf"of partition 0 of {topic}: .* no leader"):
                await end_offsets(client, topic, 3)
            await beside(cluster.start_broker, node)
            await standby.wait_event("worker.standby_can_lead", problem="LeaderNotAvailableError")
    assert f"topic {topic} has partitions without a leader: [0]" in named["detail"]


DISK_FULL = """
CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql
AS $$ BEGIN RAISE EXCEPTION 'no space left' USING ERRCODE = 'disk_full'; END $$
"""
REFUSALS = {
    "disk full": (
        [DISK_FULL, "CREATE TRIGGER refuse BEFORE INSERT ON outbox_checkpoints EXECUTE FUNCTION refuse()"],
        ["DROP TRIGGER refuse ON outbox_checkpoints"],
        "no space left",
    ),
    "read only": (
        ["ALTER DATABASE {} SET default_transaction_read_only = on", END_SESSIONS],
        ["SET default_transaction_read_only = off", "ALTER DATABASE {} RESET default_transaction_read_only"],
        "read-only",
    ),
}  # fmt: skip


@pytest.mark.parametrize(("begin", "end", "says"), REFUSALS.values(), ids=REFUSALS)
async def test_postgres_refuses_to_write(  # noqa: PLR0913, PLR0917 - three of them are one refusal
    database: str,
    kafka: str,
    topic: str,
    delivery: str,
    begin: list[str],
    end: list[str],
    says: str,
) -> None:
    """A leader that cannot write its checkpoint logs why, loses nothing, and recovers."""
    name = database.rpartition("/")[2]
    async with under_load(database, kafka, topic, OUTBOX_DELIVERY=delivery) as worker:
        await shared.execute(database, *(statement.format(name) for statement in begin))

        async def refused() -> bool:
            failing = [line for line in worker.log() if line["event"] == "worker.failing"]
            return any(says in line["detail"] for line in failing)

        await until(refused)
        assert (await worker.get("/readyz")).status_code == 503
        await shared.execute(database, *(statement.format(name) for statement in end))


async def test_topic_that_takes_only_small_messages(
    database: str, kafka: str, topic: str, delivery: str
) -> None:
    """Batches become smaller until the topic accepts them; a limit below one event is a problem."""
    async with under_load(database, kafka, topic, OUTBOX_DELIVERY=delivery) as worker:
        await topics.configure(kafka, topic, {"max.message.bytes": "100"})
        await worker.wait_event("worker.failing", problem="MessageSizeTooLargeError")
        assert await worker.metric("outbox_page_retries_total") > 0
        await topics.configure(kafka, topic, {"max.message.bytes": "2000"})


async def test_killed_again_and_again(database: str, kafka: str, topic: str, delivery: str) -> None:
    """A worker that is killed every two seconds loses nothing; exactly once it repeats nothing."""
    async with under_load(database, kafka, topic, OUTBOX_DELIVERY=delivery) as worker:
        for _ in range(max(3, int(FAULT_S / 2))):
            await last(2)
            worker.end(signal.SIGKILL)
            worker.start()


async def test_open_transactions_delay_no_event(
    database: str, kafka: str, topic: str, delivery: str
) -> None:
    """Events are published while a writer and a reader with an old snapshot stay open."""
    held, reader = await asyncpg.connect(database), await asyncpg.connect(database)
    await held.execute("BEGIN; SELECT pg_current_xact_id()")
    await reader.execute("BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT count(*) FROM outbox")
    async with under_load(database, kafka, topic, OUTBOX_DELIVERY=delivery) as worker:
        await worker.wait_published(500)

        async def shows_age() -> bool:
            return await worker.metric("outbox_oldest_transaction_seconds") > 1

        await until(shows_age)
    await held.close()
    await reader.close()
