"""Faults under load; afterwards the topic, applied in order, gives exactly the active links.

Each lasts for a few seconds here, and for a minute in `make test-faults`.
"""

import asyncio
import random
import signal
import time
from collections.abc import Awaitable, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack

import asyncpg
import pytest

from deploy.local.kafka import KafkaCluster
from deploy.local.postgres import PostgresServer
from deploy.local.process import free_port
from outbox_worker.kafka.connections import LIMITS
from outbox_worker.kafka.reading import ReadStalledError, end_offsets
from tests.support.faults.tcp import FaultyProxy
from tests.support.parts import shared
from tests.support.parts.brokers import Broker
from tests.support.parts.postgres import DATABASE, END_SESSIONS, make_database
from tests.support.relay import writers
from tests.support.relay.worker import Worker
from tests.support.topic import topics
from tests.support.topic.reckoning import DELIVERIES, reckon
from tests.support.waiting import FAULT_S, LONG_S, last, until

MARGIN_S = 60
WRITERS = 2
# One thread that stays: a broker ends with the thread that started it.
BESIDE = ThreadPoolExecutor(max_workers=1)

pytestmark = pytest.mark.timeout(900)


async def delayed(proxy: FaultyProxy) -> None:
    """Hold everything up for a while."""
    proxy.delay_s = 0.05
    await last(FAULT_S)
    proxy.delay_s = 0.0


async def reset(proxy: FaultyProxy) -> None:
    """Reset all connections again and again."""
    choice = random.Random(1)
    for _ in range(int(FAULT_S * 2)):
        proxy.cut()
        await last(choice.uniform(0.2, 0.8))


async def silent(proxy: FaultyProxy) -> None:
    """Let nothing through: connections stay open, half of them dead."""
    proxy.silence()
    await last(FAULT_S + 10)  # longer than a sign of life and a transaction may take
    proxy.silence(silent=False)


FAULTS = {"delay": delayed, "resets": reset, "silence": silent}
Fault = Callable[[FaultyProxy], Awaitable[None]]


@pytest.mark.xdist_group("a proxy to Kafka")
@pytest.mark.parametrize("fault", FAULTS.values(), ids=FAULTS)
async def test_network_to_kafka(
    database: str, broker: Broker, proxy: FaultyProxy, fault: Fault, delivery: str
) -> None:
    """Whatever the network to Kafka does, nothing is lost, and exactly once nothing is repeated."""
    topic = database.rpartition("/")[2]
    await writers.prepare(database)
    kafka = f"127.0.0.1:{proxy.port}"
    with Worker(database, kafka, topic, OUTBOX_DELIVERY=delivery) as worker:
        await worker.leading()
        async with writers.writing(lambda: database, WRITERS):
            await worker.wait_published(50)
            await fault(proxy)
            try:
                await worker.wait_working(MARGIN_S)
            except TimeoutError:
                raise AssertionError(worker.output()[-5000:]) from None
        await reckon(database, broker.inside, topic, delivery, timeout_s=MARGIN_S)


@pytest.mark.xdist_group("a proxy to Kafka")
async def test_no_progress_is_unhealthy_and_the_end_comes_in_time(
    database: str, broker: Broker, proxy: FaultyProxy
) -> None:
    """With work and a silent Kafka /healthz of all turns 503; SIGTERM still ends it within 10 s."""
    topic = database.rpartition("/")[2]
    await writers.prepare(database)
    kafka = f"127.0.0.1:{proxy.port}"
    with Worker(database, kafka, topic) as worker:
        await worker.leading()
        with Worker(database, kafka, topic) as second:
            await second.wait_event("worker.state", state="standby")
            proxy.silence()
            async with writers.writing(lambda: database, 1):

                async def unhealthy() -> bool:
                    pages = [await each.get("/healthz") for each in (worker, second)]
                    return all(page.status_code == 503 for page in pages)

                began = time.monotonic()
                await until(unhealthy, 2 * MARGIN_S)
                assert time.monotonic() - began > 20
            began = time.monotonic()
            assert worker.end(signal.SIGTERM, timeout_s=12) == 0
            assert time.monotonic() - began < 10
            proxy.silence(silent=False)
            worker.start()
            await reckon(database, broker.inside, topic, timeout_s=MARGIN_S)


@pytest.mark.xdist_group("a proxy to Kafka")
async def test_standby_is_ready_only_while_it_reaches_kafka(
    database: str, broker: Broker, proxy: FaultyProxy
) -> None:
    """Silence makes a standby unready, not unhealthy; 10 s after its end the standby is ready."""
    topic = database.rpartition("/")[2]
    with Worker(database, broker.inside, topic) as leader:
        await leader.leading()
        with Worker(database, f"127.0.0.1:{proxy.port}", topic) as standby:
            await standby.wait_event("worker.state", state="standby")
            assert (await standby.get("/readyz")).status_code == 200
            proxy.silence()
            await standby.wait_event("worker.standby_cannot_lead")
            pages = [await standby.get(path) for path in ("/readyz", "/healthz")]
            assert [page.status_code for page in pages] == [503, 200]
            await last(FAULT_S)
            proxy.silence(silent=False)
            await standby.wait_event("worker.standby_can_lead", timeout_s=10)
            assert (await standby.get("/readyz")).status_code == 200
            leader.end(signal.SIGKILL)
            await standby.leading()


EVENTS = 40
GROWS_S = 3
"""By how much the lag has to grow: a gauge that stands still never does."""
GAUGES = ("outbox_lag_seconds", "outbox_lag_events", "outbox_oldest_transaction_seconds")
ONE_EVENT = """
INSERT INTO outbox (event_id, event_type, key, payload)
VALUES (gen_random_uuid(), 'test.event', 'key', '1')
"""


async def shown(worker: Worker) -> set[str]:
    """Return those of the gauges that have a value."""
    page = (await worker.get("/metrics")).text
    return {name for name in GAUGES if f"\n{name} " in page}


async def lag_beyond(worker: Worker, seconds: float) -> bool:
    """Whether the lag is more than that."""
    return await worker.metric("outbox_lag_seconds") > seconds


@pytest.mark.xdist_group("a proxy to Kafka")
async def test_lag_grows_while_kafka_is_silent_and_is_nobodys_after_a_demotion(
    database: str, broker: Broker, proxy: FaultyProxy
) -> None:
    """Terms end or never begin, the lag goes on growing; once another one leads, it shows none."""
    topic = database.rpartition("/")[2]
    with Worker(database, f"127.0.0.1:{proxy.port}", topic) as worker:
        await worker.leading()
        proxy.silence()
        await shared.execute(database, ONE_EVENT)
        await worker.wait_event("worker.failing")
        seen = await worker.metric("outbox_lag_seconds")
        await until(lambda: lag_beyond(worker, seen + GROWS_S), MARGIN_S)
        worker.end(signal.SIGKILL)
        worker.start()  # now there is no term to measure from, only its checkpoint
        await until(lambda: lag_beyond(worker, seen + 2 * GROWS_S), MARGIN_S)
        assert await worker.metric("outbox_lag_events") == 1
        with Worker(database, broker.inside, topic) as other:
            await other.leading(MARGIN_S)
            await worker.wait_event("worker.state", state="standby")
            assert await shown(worker) == set()
        proxy.silence(silent=False)


async def test_lag_is_unknown_while_postgres_refuses_connections(
    database: str, kafka: str, topic: str
) -> None:
    """No worker can count then: there is neither a lag of zero nor a leader, until Postgres is back."""
    host, port = database.rpartition("@")[2].partition("/")[0].split(":")

    async def counted(*, known: bool) -> bool:
        leader = await worker.metric("outbox_leader")
        return (await shown(worker), leader) == ((set(GAUGES), 1) if known else (set(), 0))

    async with FaultyProxy(host, int(port)) as proxy:
        through = database.replace(f"{host}:{port}", f"127.0.0.1:{proxy.port}")
        with Worker(through, kafka, topic) as worker:
            await worker.leading()
            await until(lambda: counted(known=True))
            proxy.target = (host, free_port())  # where nobody listens
            proxy.cut()
            await until(lambda: counted(known=False), MARGIN_S)
            assert (await worker.get("/readyz")).status_code == 503
            proxy.target = (host, int(port))
            await until(lambda: counted(known=True), MARGIN_S)


@pytest.mark.xdist_group("a proxy to Kafka")
async def test_lag_grows_while_kafka_refuses_connections(database: str, broker: Broker) -> None:
    """Terms end at once, the lag goes on; state, readiness and the gauge of the leader agree."""
    topic = database.rpartition("/")[2]
    async with FaultyProxy("127.0.0.1", broker.behind, broker.proxy_port) as proxy:
        kafka = f"127.0.0.1:{proxy.port}"
        stack = ExitStack()
        worker = stack.enter_context(Worker(database, kafka, topic))
        await worker.leading()
    with stack:
        await shared.execute(database, *[ONE_EVENT] * EVENTS)
        await worker.wait_event("worker.failing")
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
    """The same for the network between the worker and Postgres."""
    host, port = database.rpartition("@")[2].partition("/")[0].split(":")
    await writers.prepare(database)
    async with FaultyProxy(host, int(port)) as proxy:
        through = database.replace(f"{host}:{port}", f"127.0.0.1:{proxy.port}")
        with Worker(through, kafka, topic, OUTBOX_DELIVERY=delivery) as worker:
            await worker.leading()
            async with writers.writing(lambda: database, WRITERS):
                await worker.wait_published(50)
                await fault(proxy)
                await worker.wait_working(MARGIN_S)
            await reckon(database, kafka, topic, delivery, timeout_s=MARGIN_S)


async def test_postgres_crashes_and_sessions_are_ended(
    kafka: str, topic: str, delivery: str
) -> None:
    """Immediate shutdowns and terminated sessions under load cost nothing but time."""
    with PostgresServer() as server:
        await make_database(server)
        database = server.dsn(DATABASE)
        await writers.prepare(database)
        with Worker(database, kafka, topic, OUTBOX_DELIVERY=delivery) as worker:
            await worker.leading()
            async with writers.writing(lambda: database, WRITERS):
                for _ in range(max(2, int(FAULT_S / 10))):
                    await worker.wait_working(MARGIN_S)
                    server.crash()
                    server.start()
                    await worker.wait_working(MARGIN_S)
                    await shared.execute(database, END_SESSIONS)
            await reckon(database, kafka, topic, delivery, timeout_s=MARGIN_S)


LISTENING = """
FROM pg_stat_activity
WHERE datname = current_database() AND application_name = 'outbox_worker wake-up'
"""


async def test_session_that_listens_is_ended(database: str, kafka: str, topic: str) -> None:
    """The worker says so and listens again, rather than poll for the rest of its term."""
    connection = await asyncpg.connect(database)
    with Worker(database, kafka, topic) as worker:
        await worker.leading()
        ended = await connection.fetch(f"SELECT pid, pg_terminate_backend(pid) {LISTENING}")
        await worker.wait_event("worker.failing", problem="HintsLostError")
        await worker.wait_event("worker.recovered")
        listening = await connection.fetch(f"SELECT pid {LISTENING}")
    assert (len(ended), len(listening)) == (1, 1)
    await connection.close()


async def test_topic_that_forgets_and_grows_is_warned_of_once(
    database: str, kafka: str, topic: str
) -> None:
    """Each is a line when it is found, and none at the take-overs that find the same."""
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


async def beside(work: Callable[[int], None], node: int) -> None:
    """Do something to a broker while the writers go on."""
    await asyncio.get_running_loop().run_in_executor(BESIDE, work, node)


async def kill_partition_leader(cluster: KafkaCluster, topic: str) -> None:
    """Kill the leader of a partition."""
    await kill_and_restart(cluster, await topics.leader(cluster.bootstrap, topic))


async def kill_coordinator(cluster: KafkaCluster, _: str) -> None:
    """Kill the transaction coordinator."""
    await kill_and_restart(cluster, await topics.leader(cluster.bootstrap, "__transaction_state"))


async def kill_and_restart(cluster: KafkaCluster, *nodes: int) -> None:
    """Kill brokers and start them again after a while."""
    for node in nodes:
        cluster.kill(node)
    await last(FAULT_S)
    for node in nodes:
        await beside(cluster.start_broker, node)


async def two_of_three(cluster: KafkaCluster, _: str) -> None:
    """Let two brokers hang for a while: no quorum, not enough replicas."""
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
"""The faults that are tried at least once too: two of three take a minute more."""
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
    """Brokers die, restart and hang; what is acknowledged stays, and nothing comes twice."""
    await under_load(database, cluster, fault, delivery)


@pytest.mark.xdist_group("three brokers")
async def test_transaction_coordinator_dies(database: str, cluster: KafkaCluster) -> None:
    """Another broker takes the transactions over; at least once there are none."""
    await under_load(database, cluster, kill_coordinator, "exactly-once")


@pytest.mark.xdist_group("three brokers")
async def test_partition_without_a_leader_is_named(database: str, cluster: KafkaCluster) -> None:
    """A standby, which is unready meanwhile, and a look-up of end offsets both name the partition."""
    topic = database.rpartition("/")[2]
    client = {**LIMITS, "bootstrap_servers": cluster.bootstrap}
    await topics.make(cluster.bootstrap, topic, 3, {})  # each partition has one replica
    node = await topics.leader(cluster.bootstrap, topic)
    with Worker(database, cluster.bootstrap, topic) as leader:
        await leader.leading()
        with Worker(database, cluster.bootstrap, topic) as standby:
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


async def under_load(
    database: str, cluster: KafkaCluster, fault: BrokerFault, delivery: str
) -> None:
    """Let it happen while writers write and a worker relays; then reckon."""
    topic = database.rpartition("/")[2]
    await writers.prepare(database)
    with Worker(database, cluster.bootstrap, topic, OUTBOX_DELIVERY=delivery) as worker:
        await worker.leading()
        async with writers.writing(lambda: database, WRITERS):
            await worker.wait_published(50)
            await fault(cluster, topic)
            await worker.wait_working(MARGIN_S)
        await reckon(database, cluster.bootstrap, topic, delivery, timeout_s=MARGIN_S)


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
    """Once no checkpoint can be written the leader says so, loses nothing, and recovers."""
    name = database.rpartition("/")[2]
    await writers.prepare(database)
    with Worker(database, kafka, topic, OUTBOX_DELIVERY=delivery) as worker:
        await worker.leading()
        async with writers.writing(lambda: database, WRITERS):
            await worker.wait_published(50)
            await shared.execute(database, *(statement.format(name) for statement in begin))

            async def refused() -> bool:
                failing = [line for line in worker.log() if line["event"] == "worker.failing"]
                return any(says in line["detail"] for line in failing)

            await until(refused)
            assert (await worker.get("/readyz")).status_code == 503
            await shared.execute(database, *(statement.format(name) for statement in end))
            await worker.wait_working(MARGIN_S)
        await reckon(database, kafka, topic, delivery)


async def test_topic_that_takes_only_small_messages(
    database: str, kafka: str, topic: str, delivery: str
) -> None:
    """Batches shrink to what the topic takes; below one event it is unhealthy until mended."""
    await writers.prepare(database)
    with Worker(database, kafka, topic, OUTBOX_DELIVERY=delivery) as worker:
        await worker.leading()
        await topics.configure(kafka, topic, {"max.message.bytes": "100"})
        async with writers.writing(lambda: database, WRITERS):
            await worker.wait_event("worker.failing", problem="MessageSizeTooLargeError")
            await topics.configure(kafka, topic, {"max.message.bytes": "2000"})
            await worker.wait_working(MARGIN_S)
        await reckon(database, kafka, topic, delivery)


async def test_killed_again_and_again(database: str, kafka: str, topic: str, delivery: str) -> None:
    """A worker that is killed every two seconds loses nothing, and exactly once repeats nothing."""
    await writers.prepare(database)
    with Worker(database, kafka, topic, OUTBOX_DELIVERY=delivery) as worker:
        async with writers.writing(lambda: database, WRITERS):
            for _ in range(max(3, int(FAULT_S / 2))):
                await last(2)
                worker.end(signal.SIGKILL)
                worker.start()
        await reckon(database, kafka, topic, delivery)


async def test_transaction_held_open_all_the_while(
    database: str, kafka: str, topic: str, delivery: str
) -> None:
    """A writer that stays open, and a reader of one snapshot, hold nobody up."""
    await writers.prepare(database)
    held, reader = await asyncpg.connect(database), await asyncpg.connect(database)
    await held.execute("BEGIN; SELECT pg_current_xact_id()")
    await reader.execute("BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT count(*) FROM outbox")
    with Worker(database, kafka, topic, OUTBOX_DELIVERY=delivery) as worker:
        await worker.leading()
        async with writers.writing(lambda: database, WRITERS):
            await worker.wait_published(500)

        async def told() -> bool:
            return await worker.metric("outbox_oldest_transaction_seconds") > 1

        await until(told)
        await reckon(database, kafka, topic, delivery)
    await held.close()
    await reader.close()
