"""Postgres and Kafka in Docker, if a Docker engine answers."""

import os
import signal
import socket
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from uuid import uuid4

import docker
from docker.errors import DockerException
from docker.utils import parse_host
from testcontainers.community.postgres import PostgresContainer
from testcontainers.core.container import DockerContainer
from testcontainers.core.wait_strategies import LogMessageWaitStrategy

from deploy.local import tools
from deploy.local.interruption import run_tool
from deploy.local.process import Process, free_port, say

POSTGRES_IMAGE = "postgres:18"
KAFKA_IMAGE = "apache/kafka:4.3.1"


def engine_answers() -> bool:
    """Whether a Docker engine answers."""
    scheme, _, address = parse_host(os.environ.get("DOCKER_HOST")).partition("://")
    if scheme == "http+unix" and not _listens(address):
        return False  # the client is not asked: if it cannot connect, it leaves its socket open
    try:
        client = docker.from_env(timeout=5)
    except DockerException:
        return False
    client.close()
    return True


def _listens(path: str) -> bool:
    with socket.socket(socket.AF_UNIX) as probe:
        try:
            probe.connect(path)
        except OSError:
            return False
    return True


@contextmanager
def postgres(settings: Mapping[str, str]) -> Iterator[str]:
    """Yield the superuser's URL of a Postgres in a container of its own."""
    say(f"starting {POSTGRES_IMAGE} in Docker …")
    container = PostgresContainer(
        POSTGRES_IMAGE, username="postgres", password="postgres", dbname="postgres", driver=None
    )
    flags = [flag for name, value in settings.items() for flag in ("-c", f"{name}={value}")]
    with container.with_command(["postgres", *flags]) as running:
        yield running.get_connection_url()


@contextmanager
def kafka(properties: Mapping[str, str]) -> Iterator[str]:
    """Yield the bootstrap address of one broker in a container.

    The broker must know its advertised address before it starts, so the port is chosen here and not by
    Docker.
    """
    say(f"starting {KAFKA_IMAGE} in Docker …")
    port = free_port()
    container = DockerContainer(KAFKA_IMAGE)
    address = f"{container.get_docker_client().host()}:{port}"
    variables = {
        **properties,
        "node.id": "1",
        "process.roles": "broker,controller",
        "listeners": f"PLAINTEXT://:{port},CONTROLLER://:9093",
        "advertised.listeners": f"PLAINTEXT://{address}",
        "controller.listener.names": "CONTROLLER",
        "controller.quorum.voters": "1@localhost:9093",
        "listener.security.protocol.map": "PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT",
    }
    for name, value in variables.items():
        container.with_env("KAFKA_" + name.replace(".", "_").upper(), value)
    container.with_bind_ports(port, port).waiting_for(
        LogMessageWaitStrategy("Kafka Server started")
    )
    with container:
        yield address


def tool(program: str, user: int | None = None, container: str = "") -> list[str]:
    """Return the command that runs an installed program, or else the one in its Docker image.

    The container has this machine's network and temporary folder, and can read the project's files.
    Its user is this process's or the given one.
    """
    if installed := tools.find(program):
        return [installed]
    temporary, project = tempfile.gettempdir(), Path(__file__).parents[2]
    owner = os.geteuid() if user is None else user
    return [
        "docker", "run", "--rm", "--network=host", f"--user={owner}:{owner}",
        *(["--name", container] if container else []),
        f"--volume={temporary}:{temporary}", f"--volume={project}:{project}:ro",
        f"--entrypoint={program}", tools.IMAGES[program],
    ]  # fmt: skip


class Tool(Process):
    """A program that is installed or has a Docker image; signals reach it in either."""

    def __init__(
        self, program: str, arguments: Sequence[str], log: Path, *, user: int | None = None
    ) -> None:
        self._container = "" if tools.find(program) else f"{program}-{uuid4().hex}"
        command = [*tool(program, user, self._container), *arguments]
        super().__init__(program, command, log, user=None if self._container else user)

    def send(self, sig: signal.Signals) -> None:
        """Send a signal, if it still runs. SIGKILL also removes a container that is still starting."""
        if not self._container:
            super().send(sig)
        elif self.running:
            kill = ["rm", "--force"] if sig == signal.SIGKILL else ["kill", f"--signal={sig.name}"]
            run_tool(["docker", *kill, self._container])
