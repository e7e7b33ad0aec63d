"""Kafka brokers for tests: behind a proxy, and with TLS, passwords and client certificates.

Programs under test use an outer listener; tests use an inner one, which is plain text.
"""

import asyncio
import shutil
import ssl
import subprocess
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from types import MappingProxyType
from typing import NamedTuple

from deploy.local.kafka import KafkaCluster
from deploy.local.process import free_port
from tests.support.faults.tcp import Tls
from tests.support.parts.certificates import DAYS, LOOPBACK, Authority

NOTHING: Mapping[str, str] = MappingProxyType({})
USER = "relay"
PASSWORD = "only-for-these-tests"
BROKERS = 3
_BESIDE = ThreadPoolExecutor(max_workers=1)
"""One thread that stays: Linux ends a broker together with the thread that started it."""
_LOGIN = "org.apache.kafka.common.security"
SCRAM = (
    "--add-scram", f"SCRAM-SHA-512=[name={USER},password={PASSWORD}]",
    "--add-scram", f"SCRAM-SHA-256=[name={USER},password={PASSWORD}]",
)  # fmt: skip


class Broker(NamedTuple):
    """One broker with two listeners."""

    cluster: KafkaCluster
    inside: str
    """The address of the inner listener."""
    behind: int
    """The port of the outer listener, to which a proxy connects."""
    proxy_port: int
    """The port on which the proxy must listen: the broker names it to its clients."""
    settings: Mapping[str, str] = NOTHING
    """A worker's settings for the outer listener, without the address."""
    tls: Tls | None = None
    """For a proxy that reads requests: it must end TLS. None: the outer listener is plain text."""

    @property
    def outside(self) -> str:
        """The worker's address of this broker: that of the proxy."""
        return f"127.0.0.1:{self.proxy_port}"


async def beside(work: Callable[..., None], *arguments: object) -> None:
    """Do something to a broker while the event loop runs on."""
    await asyncio.get_running_loop().run_in_executor(_BESIDE, work, *arguments)


@contextmanager
def broker_behind_a_proxy(
    properties: Mapping[str, str] = NOTHING,
    storage: Sequence[str] = (),
    settings: Mapping[str, str] = NOTHING,
) -> Iterator[Broker]:
    """Yield a broker that advertises the proxy's port for its outer listener.

    The broker connects to itself, to write transaction markers, through the inner listener.
    """
    inner, outer, controller, proxy_port = (free_port() for _ in range(4))
    ours = {
        "listeners": f"PLAINTEXT://127.0.0.1:{inner},OUTER://127.0.0.1:{outer},"
        f"CONTROLLER://127.0.0.1:{controller}",
        "advertised.listeners": f"PLAINTEXT://127.0.0.1:{inner},OUTER://127.0.0.1:{proxy_port}",
        "listener.security.protocol.map": "PLAINTEXT:PLAINTEXT,OUTER:PLAINTEXT,"
        "CONTROLLER:PLAINTEXT",
        "inter.broker.listener.name": "PLAINTEXT",
        "controller.quorum.voters": f"0@127.0.0.1:{controller}",
        **properties,
    }
    with KafkaCluster(properties=ours, storage=storage) as cluster:
        yield Broker(cluster, f"127.0.0.1:{inner}", outer, proxy_port, settings)


class Secured(NamedTuple):
    """A broker's configuration and a worker's settings for an outer listener with SASL_SSL."""

    authority: Authority
    properties: dict[str, str]
    settings: dict[str, str]


@contextmanager
def secured() -> Iterator[Secured]:
    """Yield a configuration and settings, with a CA whose files are deleted at the end."""
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
def tls_broker_behind_a_proxy(properties: Mapping[str, str] = NOTHING) -> Iterator[Broker]:
    """Yield a broker whose outer listener requires TLS and a password."""
    with (
        secured() as by,
        broker_behind_a_proxy(by.properties | dict(properties), SCRAM, by.settings) as broker,
    ):
        yield broker._replace(tls=_tls(by.authority))


def _tls(authority: Authority) -> Tls:
    server = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    server.load_cert_chain(*authority.issue("proxy"))
    return Tls(server, ssl.create_default_context(cafile=authority.cert))


class SecuredCluster(KafkaCluster):
    """Three brokers, each with an inner listener and an outer one that requires TLS and a password."""

    def __init__(self, by: Secured, properties: Mapping[str, str] = NOTHING) -> None:
        self._outer = [free_port() for _ in range(BROKERS)]
        super().__init__(BROKERS, by.properties | dict(properties), SCRAM)

    @property
    def outside(self) -> str:
        """The addresses of the outer listeners, for KAFKA_BOOTSTRAP_SERVERS."""
        return ",".join(f"127.0.0.1:{port}" for port in self._outer)

    def _addresses(self, node: int) -> dict[str, str]:
        addresses = super()._addresses(node)
        for name in ("listeners", "advertised.listeners"):
            addresses[name] += f",OUTER://127.0.0.1:{self._outer[node]}"
        return addresses


def set_password(broker: Broker, password: str) -> None:
    """Change the user's SCRAM password; open connections stay authenticated."""
    tool = broker.cluster.tool(
        "kafka.admin.ConfigCommand", "--bootstrap-server", broker.inside, "--alter",
        "--add-config", f"SCRAM-SHA-512=[password={password}]", "--entity-type", "users",
        "--entity-name", USER,
    )  # fmt: skip
    subprocess.run(tool, check=True, capture_output=True)


def tls_listener(
    authority: Authority, name: str, hosts: Sequence[str] = LOOPBACK, days: int = DAYS
) -> dict[str, str]:
    """Return the properties of a listener with a certificate of the authority, which it also trusts."""
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
