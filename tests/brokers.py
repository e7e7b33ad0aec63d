"""A Kafka broker behind a line: programs under test go through it, tests go past it."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import NamedTuple

from deploy.local.kafka import KafkaCluster
from deploy.local.process import free_port


class Broker(NamedTuple):
    """One broker with two doors."""

    cluster: KafkaCluster
    inside: str  # where tests talk to it
    behind: int  # the port that a line passes on to
    line_port: int  # the port that the line must listen on: the broker names it to its clients


@contextmanager
def broker_behind_a_line(properties: Mapping[str, str] | None = None) -> Iterator[Broker]:
    """Yield a broker that sends clients of its outer door to the line's port.

    It talks to itself (transactions' markers) through the inner door.
    """
    inner, outer, controller, line_port = (free_port() for _ in range(4))
    ours = {
        "listeners": f"PLAINTEXT://127.0.0.1:{inner},OUTER://127.0.0.1:{outer},"
        f"CONTROLLER://127.0.0.1:{controller}",
        "advertised.listeners": f"PLAINTEXT://127.0.0.1:{inner},OUTER://127.0.0.1:{line_port}",
        "listener.security.protocol.map": "PLAINTEXT:PLAINTEXT,OUTER:PLAINTEXT,"
        "CONTROLLER:PLAINTEXT",
        "inter.broker.listener.name": "PLAINTEXT",
        "controller.quorum.voters": f"0@127.0.0.1:{controller}",
        **(properties or {}),
    }
    with KafkaCluster(properties=ours) as cluster:
        yield Broker(cluster, f"127.0.0.1:{inner}", outer, line_port)
