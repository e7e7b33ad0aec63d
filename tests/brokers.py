"""Kafka brokers for tests: behind a line, and with TLS, passwords and client certificates.

Programs under test use an outer listener; tests use an inner one, which is plain text.
"""

import shutil
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import MappingProxyType
from typing import NamedTuple

from deploy.local.kafka import KafkaCluster
from deploy.local.process import free_port
from tests.certificates import DAYS, LOOPBACK, Authority

NOTHING: Mapping[str, str] = MappingProxyType({})
USER = "relay"
PASSWORD = "only-for-these-tests"
_LOGIN = "org.apache.kafka.common.security"
SCRAM = (
    "--add-scram", f"SCRAM-SHA-512=[name={USER},password={PASSWORD}]",
    "--add-scram", f"SCRAM-SHA-256=[name={USER},password={PASSWORD}]",
)  # fmt: skip


class Broker(NamedTuple):
    """One broker with two listeners."""

    cluster: KafkaCluster
    inside: str  # where tests talk to it
    behind: int  # the port that a line passes on to
    line_port: int  # the port that the line must listen on: the broker names it to its clients
    settings: Mapping[str, str] = NOTHING  # what a worker needs to connect, beside the address


@contextmanager
def broker_behind_a_line(
    properties: Mapping[str, str] = NOTHING,
    storage: Sequence[str] = (),
    settings: Mapping[str, str] = NOTHING,
) -> Iterator[Broker]:
    """Yield a broker that sends clients of its outer listener to the line's port.

    The broker talks to itself (transactions' markers) through the inner listener.
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
        **properties,
    }
    with KafkaCluster(properties=ours, storage=storage) as cluster:
        yield Broker(cluster, f"127.0.0.1:{inner}", outer, line_port, settings)


class Secured(NamedTuple):
    """A broker's configuration and a worker's settings for an outer listener with SASL_SSL."""

    authority: Authority
    properties: dict[str, str]
    settings: dict[str, str]


@contextmanager
def secured() -> Iterator[Secured]:
    """Yield them, with a CA whose files are deleted at the end."""
    folder = Path(tempfile.mkdtemp(prefix="certificates-"))
    try:
        authority = Authority(folder)
        settings = {
            "KAFKA_SECURITY_PROTOCOL": "SASL_SSL",
            "KAFKA_SASL_MECHANISM": "SCRAM-SHA-512",
            "KAFKA_SASL_USERNAME": USER,
            "KAFKA_SASL_PASSWORD": PASSWORD,
            "KAFKA_SSL_CAFILE": str(authority.cert),
        }
        yield Secured(authority, _outer_listener(authority), settings)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def tls_broker_behind_a_line(properties: Mapping[str, str] = NOTHING) -> Iterator[Broker]:
    """Yield a broker whose outer listener wants TLS and a password."""
    with (
        secured() as by,
        broker_behind_a_line(by.properties | dict(properties), SCRAM, by.settings) as broker,
    ):
        yield broker


def tls_listener(
    authority: Authority, name: str, hosts: Sequence[str] = LOOPBACK, days: int = DAYS
) -> dict[str, str]:
    """Return the properties that give a listener a certificate and let it trust the authority."""
    keystore = authority.issue(f"broker-{name}", hosts, days=days).in_one_file()
    stores = {
        "keystore.type": "PEM",
        "keystore.location": str(keystore),
        "truststore.type": "PEM",
        "truststore.location": str(authority.cert),
    }
    return {f"listener.name.{name}.ssl.{store}": value for store, value in stores.items()}


def _outer_listener(authority: Authority) -> dict[str, str]:
    plain = f'{_LOGIN}.plain.PlainLoginModule required user_{USER}="{PASSWORD}";'
    scram = f"{_LOGIN}.scram.ScramLoginModule required;"
    return {
        "listener.security.protocol.map": "PLAINTEXT:PLAINTEXT,OUTER:SASL_SSL,CONTROLLER:PLAINTEXT",
        "listener.name.outer.sasl.enabled.mechanisms": "PLAIN,SCRAM-SHA-512",
        "listener.name.outer.plain.sasl.jaas.config": plain,
        "listener.name.outer.scram-sha-512.sasl.jaas.config": scram,
        **tls_listener(authority, "outer"),
    }
