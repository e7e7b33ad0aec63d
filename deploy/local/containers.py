"""Postgres and Kafka in Docker, if a Docker engine answers."""

import os
import socket
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import docker
from docker.errors import DockerException
from docker.utils import parse_host
from testcontainers.community.postgres import PostgresContainer
from testcontainers.core.container import DockerContainer
from testcontainers.core.wait_strategies import LogMessageWaitStrategy

from deploy.local.process import free_port, say

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
