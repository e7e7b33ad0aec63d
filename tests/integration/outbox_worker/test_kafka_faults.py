"""Each fault of a connection to Kafka has its own message, which names the wrong setting."""

import asyncio
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import NamedTuple

import pytest
from aiokafka.errors import KafkaConnectionError

from deploy.local.kafka import KafkaCluster
from deploy.local.process import free_port
from outbox_worker.kafka import administration
from outbox_worker.settings import read
from tests.support.parts.brokers import PASSWORD, SCRAM, USER, secured, tls_listener
from tests.support.parts.certificates import Authority, Certificate
from tests.support.streams import abort

pytestmark = pytest.mark.xdist_group("faults of a connection")

LISTENERS = {"PLAINTEXT": "PLAINTEXT", "OUTER": "SASL_SSL", "MUTUAL": "SSL", "EXPIRED": "SSL",
             "ELSEWHERE": "SSL", "ASTRAY": "PLAINTEXT", "CONTROLLER": "PLAINTEXT"}  # fmt: skip


class Stage(NamedTuple):
    """A broker's ports by listener, a port that it only advertises, its CA and another CA."""

    ports: dict[str, int]
    astray: int
    authority: Authority
    stranger: Authority


@pytest.fixture(scope="module")
def stage(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stage]:
    """Yield a broker with a listener for each way to connect and for each bad certificate."""
    ports = {name: free_port() for name in LISTENERS}
    at = {name: f"{name}://127.0.0.1:{port}" for name, port in ports.items()}
    astray = free_port()
    advertised = {**at, "ASTRAY": f"ASTRAY://127.0.0.1:{astray}"}
    with secured() as by:
        properties = {
            **by.properties,
            "listeners": ",".join(at.values()),
            "advertised.listeners": ",".join(v for k, v in advertised.items() if k != "CONTROLLER"),
            "listener.security.protocol.map": ",".join(f"{k}:{v}" for k, v in LISTENERS.items()),
            "inter.broker.listener.name": "PLAINTEXT",
            "controller.quorum.voters": f"0@127.0.0.1:{ports['CONTROLLER']}",
            **tls_listener(by.authority, "mutual"),
            "listener.name.mutual.ssl.client.auth": "required",
            **tls_listener(by.authority, "expired", days=0),
            **tls_listener(by.authority, "elsewhere", hosts=("DNS:kafka.example",)),
        }
        stranger = Authority(tmp_path_factory.mktemp("stranger"), "stranger")
        with KafkaCluster(properties=properties, storage=SCRAM):
            yield Stage(ports, astray, by.authority, stranger)


async def complaint(port: int, settings: Mapping[str, str], host: str = "127.0.0.1") -> str:
    """Return the error of a client that cannot connect."""
    given = {"DATABASE_URL": "postgresql://x", "KAFKA_BOOTSTRAP_SERVERS": f"{host}:{port}"}
    client = read({**given, **settings}).kafka_client()
    with pytest.raises(KafkaConnectionError) as raised:
        async with administration.connect(client) as admin:
            await admin.brokers()
    said = str(raised.value)
    assert PASSWORD not in said
    assert "[" not in said
    return said


def tls(cafile: Path, **others: str) -> dict[str, str]:
    """Return settings for TLS with a password."""
    return {
        "KAFKA_SECURITY_PROTOCOL": "SASL_SSL",
        "KAFKA_SASL_MECHANISM": "SCRAM-SHA-512",
        "KAFKA_SASL_USERNAME": USER,
        "KAFKA_SASL_PASSWORD": PASSWORD,
        "KAFKA_SSL_CAFILE": str(cafile),
        **others,
    }


def with_certificate(certificate: Certificate) -> dict[str, str]:
    """Return the settings for a client certificate."""
    return {
        "KAFKA_SSL_CERTFILE": str(certificate.cert),
        "KAFKA_SSL_KEYFILE": str(certificate.key),
    }


async def test_wrong_settings(stage: Stage) -> None:
    """Each of eighteen wrong settings for one broker has its own message."""
    ca, ports = stage.authority.cert, stage.ports
    right, ssl = tls(ca), {"KAFKA_SECURITY_PROTOCOL": "SSL", "KAFKA_SSL_CAFILE": str(ca)}
    plain = {"KAFKA_SECURITY_PROTOCOL": "PLAINTEXT"}
    missing = {name: value for name, value in right.items() if name != "KAFKA_SSL_CAFILE"}
    foreign = with_certificate(stage.stranger.issue("client"))
    expired = with_certificate(stage.authority.issue("client", days=0))
    no_tls = {**right, "KAFKA_SECURITY_PROTOCOL": "SASL_PLAINTEXT"}
    cases = {
        "wrong CA": (ports["OUTER"], tls(stage.stranger.cert), "set KAFKA_SSL_CAFILE"),
        "missing CA": (ports["OUTER"], missing, "set KAFKA_SSL_CAFILE"),
        "expired": (ports["EXPIRED"], ssl, "has expired"),
        "another host": (ports["ELSEWHERE"], ssl, "another host name"),
        "plain to TLS": (ports["MUTUAL"], plain, "speaks TLS; set KAFKA_SECURITY_PROTOCOL"),
        "plain to SASL_SSL": (ports["OUTER"], plain, "speaks TLS; set KAFKA_SECURITY_PROTOCOL"),
        "SASL_PLAINTEXT to TLS": (ports["OUTER"], no_tls, "speaks TLS"),
        "TLS to plain": (ports["PLAINTEXT"], ssl, "plain text; set KAFKA_SECURITY_PROTOCOL=PLAIN"),
        "SASL to plain": (ports["PLAINTEXT"], no_tls, "does not use SASL; set KAFKA_SECURITY"),
        "no SASL": (ports["OUTER"], ssl, "wants SASL; set KAFKA_SECURITY_PROTOCOL=SASL_SSL"),
        "wrong SCRAM password": (
            ports["OUTER"], {**right, "KAFKA_SASL_PASSWORD": "no"}, "SCRAM-SHA-512 user name or"),
        "wrong PLAIN password": (
            ports["OUTER"],
            {**right, "KAFKA_SASL_MECHANISM": "PLAIN", "KAFKA_SASL_PASSWORD": "no"},
            "the PLAIN user name or password; correct KAFKA_SASL_USERNAME"),
        "mechanism": (
            ports["OUTER"], {**right, "KAFKA_SASL_MECHANISM": "SCRAM-SHA-256"},
            "does not offer SCRAM-SHA-256; correct KAFKA_SASL_MECHANISM"),
        "no client certificate": (
            ports["MUTUAL"], ssl, "wants a client certificate, and none is set; set KAFKA_SSL_CERT"),
        "foreign client certificate": (
            ports["MUTUAL"], ssl | foreign, "does not accept the client certificate; set KAFKA_SSL_CERT"),
        "expired client certificate": (
            ports["MUTUAL"], ssl | expired, "its CA has signed and that has not expired"),
        "nothing listens": (free_port(), plain, "or correct KAFKA_BOOTSTRAP_SERVERS"),
        "advertised address": (
            ports["ASTRAY"], plain,
            f"{stage.astray} refuses connections; start the broker or correct the broker's advertised"),
    }  # fmt: skip
    for name, (port, settings, words) in cases.items():
        said = await complaint(port, settings)
        assert words in said, name


async def test_unknown_host_name() -> None:
    """The message about an unknown host name has the name and its setting."""
    said = await complaint(9092, {}, "no-such-host.invalid")
    assert "no-such-host.invalid:9092 has a host name that is not known" in said
    assert "KAFKA_BOOTSTRAP_SERVERS" in said


@asynccontextmanager
async def server(answer: bytes | None) -> AsyncIterator[int]:
    """Yield the port of a server that answers every request with `answer`; None: it never answers."""
    served: list[asyncio.StreamWriter] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        served.append(writer)
        if await reader.read(1) and answer is not None:
            writer.write(answer)
            writer.close()

    listening = await asyncio.start_server(serve, "127.0.0.1")
    yield listening.sockets[0].getsockname()[1]
    listening.close()
    for writer in served:
        await abort(writer)


NOT_KAFKA = {
    b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n": "an HTTP server, not Kafka",
    b"E\0\0\0\x0dSFATAL\0\0\0\0": "another kind of server, not Kafka",
    b"": "does not answer as Kafka does",
    None: "does not answer as Kafka does",
}


@pytest.mark.parametrize("answer", NOT_KAFKA)
async def test_server_that_is_not_kafka(answer: bytes | None) -> None:
    """A server that is not Kafka, or does not answer, is recognised."""
    async with server(answer) as port:
        said = await complaint(port, {})
    assert NOT_KAFKA[answer] in said
    assert "KAFKA_BOOTSTRAP_SERVERS" in said
