"""A Kafka Connect worker with Debezium in it, on a Kafka that is there already."""

import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Self
from uuid import uuid4

import httpx

from deploy.local import java
from deploy.local.process import LocalError, Process, free_port
from tests.support.waiting import until

HERE = Path(__file__).parent
JVM = (
    "-Xms256m", "-Xmx2g", "-XX:+UseG1GC", "-XX:MaxGCPauseMillis=20",
    "-XX:InitiatingHeapOccupancyPercent=35", "-XX:+ExplicitGCInvokesConcurrent",
)  # fmt: skip
LOG4J = """
log4j.rootLogger=WARN, out
log4j.appender.out=org.apache.log4j.ConsoleAppender
log4j.appender.out.layout=org.apache.log4j.PatternLayout
log4j.appender.out.layout.ConversionPattern=[%d] %p %t %c{1}: %m%n
"""
START_S = 180
CONNECTOR_S = 120
REQUEST_S = 90


class Connect:
    """One distributed worker; as a context manager it starts, and at the end is killed."""

    def __init__(self, bootstrap: str, *, exactly_once: bool) -> None:
        self._home = Path(tempfile.mkdtemp(prefix="connect-"))
        port = free_port()
        self._url = f"http://127.0.0.1:{port}"
        jars = java.jars(HERE / "connect.xml")
        (self._home / "plugins").mkdir()
        debezium = java.jars(HERE / "debezium.xml")
        (self._home / "plugins" / "debezium").symlink_to(debezium)
        (self._home / "log4j.properties").write_text(LOG4J)
        lines = _properties(bootstrap, self._url, self._home / "plugins", exactly_once=exactly_once)
        (self._home / "worker.properties").write_text(
            "".join(f"{name}={value}\n" for name, value in lines.items())
        )
        command = [
            java.JAVA, *JVM, f"-Dlog4j.configuration=file:{self._home}/log4j.properties",
            "-cp", f"{jars}/*", "org.apache.kafka.connect.cli.ConnectDistributed",
            f"{self._home}/worker.properties",
        ]  # fmt: skip
        self.process = Process("Kafka Connect", command, self._home / "log")

    def __enter__(self) -> Self:
        """Start it; `ready` waits until it serves."""
        self.process.start()
        return self

    def __exit__(self, *_: object) -> None:
        """Kill it and delete its files."""
        self.process.end(timeout_s=5)
        shutil.rmtree(self._home, ignore_errors=True)

    async def ready(self) -> None:
        """Return once it takes connectors."""

        async def look() -> bool:
            return (await self._get("/connectors")) is not None

        await until(look, START_S)

    async def start(self, name: str, config: Mapping[str, str]) -> None:
        """Make a connector and return once its task runs."""
        async with httpx.AsyncClient(base_url=self._url, timeout=REQUEST_S) as client:
            made = await client.put(f"/connectors/{name}/config", json=dict(config))
        if made.is_error:
            raise LocalError(f"the connector was refused: {made.text}")

        async def look() -> bool:
            status = await self._get(f"/connectors/{name}/status") or {"tasks": []}
            for task in status["tasks"]:
                if task["state"] == "FAILED":
                    raise LocalError(f"the connector failed: {task['trace'][:2000]}")
            return [task["state"] for task in status["tasks"]] == ["RUNNING"]

        await until(look, CONNECTOR_S)

    async def remove(self, name: str) -> None:
        """Remove a connector, which stops its task."""
        async with httpx.AsyncClient(base_url=self._url, timeout=REQUEST_S) as client:
            (await client.delete(f"/connectors/{name}")).raise_for_status()

    async def _get(self, path: str) -> Any | None:  # noqa: ANN401 - JSON
        """Return what Connect says; None while it says nothing."""
        if not self.process.running:
            raise LocalError(self.process.how_it_ended())
        try:
            async with httpx.AsyncClient(base_url=self._url, timeout=REQUEST_S) as client:
                answer = await client.get(path)
        except httpx.TransportError:
            return None
        return answer.json() if answer.is_success else None


def _properties(bootstrap: str, url: str, plugins: Path, *, exactly_once: bool) -> dict[str, str]:
    group = f"connect-{uuid4().hex}"
    converters = "org.apache.kafka.connect"
    return {
        "bootstrap.servers": bootstrap,
        "group.id": group,
        "listeners": url,
        "plugin.path": str(plugins),
        "plugin.discovery": "service_load",
        "key.converter": f"{converters}.storage.StringConverter",
        "value.converter": f"{converters}.converters.ByteArrayConverter",
        "connector.client.config.override.policy": "All",
        "exactly.once.source.support": "enabled" if exactly_once else "disabled",
        "scheduled.rebalance.max.delay.ms": "0",
        "config.storage.topic": f"{group}-configs",
        "config.storage.replication.factor": "1",
        "offset.storage.topic": f"{group}-offsets",
        "offset.storage.replication.factor": "1",
        "offset.storage.partitions": "1",
        "status.storage.topic": f"{group}-status",
        "status.storage.replication.factor": "1",
        "status.storage.partitions": "1",
    }
