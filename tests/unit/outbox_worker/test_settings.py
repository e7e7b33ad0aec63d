"""The worker's settings from the environment, or one message with all errors."""

import ssl
from pathlib import Path

import pytest

from outbox_worker.environment import SettingsError
from outbox_worker.settings import read
from tests.support.parts.certificates import Authority, encrypted

LEAST = {"DATABASE_URL": "postgresql://db", "KAFKA_BOOTSTRAP_SERVERS": "broker:9092"}


def complaint(**variables: str) -> str:
    """Return the error for the smallest environment with these variables."""
    with pytest.raises(SettingsError) as error:
        read({**LEAST, **variables})
    return str(error.value)


def test_defaults_are_the_documented_ones() -> None:
    """With the two required variables the settings have the documented defaults."""
    settings = read(LEAST)
    assert settings.topic == "document-links"
    assert settings.partitions == 12
    assert settings.exactly_once
    assert settings.batch_size == 5_000
    assert settings.compression is None
    assert settings.compression_of(None).codec == "zstd"
    assert settings.retention_days == 7
    assert (settings.http_host, settings.http_port) == ("127.0.0.1", 9090)
    assert settings.session_database_url == "postgresql://db"


def test_session_url_wins_for_sessions() -> None:
    """OUTBOX_SESSION_DATABASE_URL is used for sessions if it is set."""
    settings = read({**LEAST, "OUTBOX_SESSION_DATABASE_URL": "postgresql://direct"})
    assert settings.session_database_url == "postgresql://direct"


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        ("OUTBOX_PARTITION", "3", "did you mean OUTBOX_PARTITIONS?"),
        ("OUTBOX_RETENTION_DAYS", "15", "not a whole number from 1 to 14"),
        ("OUTBOX_DELIVERY", "twice", "one of exactly-once, at-least-once"),
        (
            "OUTBOX_COMPRESSION",
            "zip",
            "OUTBOX_COMPRESSION: not one of none, gzip, snappy, lz4, zstd",
        ),
        ("OUTBOX_COMPRESSION", "null", "OUTBOX_COMPRESSION: not one of none"),
        ("OUTBOX_TOPIC", "no spaces", "OUTBOX_TOPIC: not 1 to 150 letters, digits"),
        ("KAFKA_SECURITY_PROTOCOL", "TLS", "KAFKA_SECURITY_PROTOCOL"),
        ("KAFKA_SECURITY_PROTOCOL", "SASL_SSL", "KAFKA_SASL_USERNAME: missing variable; KAFKA_SEC"),
        (
            "KAFKA_SSL_CERTFILE",
            "cert.pem",
            "KAFKA_SSL_KEYFILE: missing variable; KAFKA_SSL_CERTFILE",
        ),
        ("KAFKA_SSL_KEYFILE", "key.pem", "KAFKA_SSL_CERTFILE: missing variable; KAFKA_SSL_KEYFILE"),
    ],
)
def test_wrong_variable_is_named(name: str, value: str, said: str) -> None:
    """A message names the variable and what it should be."""
    assert said in complaint(**{name: value})


@pytest.mark.parametrize(
    "brokers", ["localhost:abc", "a:9092,", "a:0", "a:70000", "[::1", "PLAINTEXT://a:1"]
)
def test_brokers_that_cannot_be_read_are_named(brokers: str) -> None:
    """A list of brokers on which aiokafka would fail with a traceback is refused at the start."""
    said = complaint(KAFKA_BOOTSTRAP_SERVERS=brokers)
    assert said == "KAFKA_BOOTSTRAP_SERVERS: not a list like broker-1:9092,broker-2:9092"


@pytest.mark.parametrize("brokers", ["a", "a:9092, b:9093", "[::1]:9092", "::1"])
def test_brokers_that_aiokafka_reads_are_taken(brokers: str) -> None:
    """Brokers are accepted with and without ports, and as addresses."""
    assert read({**LEAST, "KAFKA_BOOTSTRAP_SERVERS": brokers}).bootstrap_servers == brokers


def test_kafka_clients_get_the_security_settings() -> None:
    """Each Kafka client gets the protocol, the mechanism and the password."""
    client = read(
        {
            **LEAST,
            "KAFKA_SECURITY_PROTOCOL": "SASL_SSL",
            "KAFKA_SASL_MECHANISM": "SCRAM-SHA-512",
            "KAFKA_SASL_USERNAME": "relay",
            "KAFKA_SASL_PASSWORD": "pw",
        }
    ).kafka_client()
    assert client["security_protocol"] == "SASL_SSL"
    assert client["sasl_mechanism"] == "SCRAM-SHA-512"
    assert (client["sasl_plain_username"], client["sasl_plain_password"]) == ("relay", "pw")
    assert client["ssl_context"] is not None


def test_tls_accepts_the_same_under_every_python() -> None:
    """A private CA without every extension of RFC 5280 is trusted, which Python 3.13 refuses."""
    settings = read({**LEAST, "KAFKA_SECURITY_PROTOCOL": "SSL"})
    context = settings.kafka_client()["ssl_context"].context()
    assert not context.verify_flags & ssl.VERIFY_X509_STRICT
    assert context.verify_mode == ssl.CERT_REQUIRED


@pytest.mark.parametrize(
    ("misspelt", "meant"),
    [
        ("KAFKA_SASL_USER", "KAFKA_SASL_USERNAME"),
        ("KAFKA_SSL_CA_FILE", "KAFKA_SSL_CAFILE"),
        ("KAFKA_SECURITY_PROTOCOLS", "KAFKA_SECURITY_PROTOCOL"),
        ("KAFKA_SASL_MECHANISMS", "KAFKA_SASL_MECHANISM"),
        ("KAFKA_SASL_PASSWROD", "KAFKA_SASL_PASSWORD"),
    ],
)
def test_misspelt_kafka_variable_is_named(misspelt: str, meant: str) -> None:
    """A misspelt variable of Kafka's settings is refused, with the right name."""
    assert f"{misspelt}: unknown variable; did you mean {meant}?" in complaint(**{misspelt: "x"})


@pytest.mark.parametrize(
    "name",
    ["KAFKA_HOME", "KAFKA_HEAP_OPTS", "KAFKA_OPTS", "KAFKA_BROKER_ID", "KAFKA_CFG_NODE_ID",
     "KAFKA_ADVERTISED_LISTENERS", "KAFKA_SSL_KEYSTORE_LOCATION", "KAFKA_TOPIC"],
)  # fmt: skip
def test_kafka_variable_of_another_program_is_ignored(name: str) -> None:
    """Variables of Kafka's own images and tools are ignored."""
    assert read({**LEAST, name: "x"}).topic == "document-links"


def test_kubernetes_links_to_a_service_named_kafka_are_ignored() -> None:
    """Variables of a Kubernetes service named `kafka` are ignored, although they begin with KAFKA_."""
    links = {"KAFKA_SERVICE_HOST": "10.0.0.1", "KAFKA_PORT": "tcp://10.0.0.1:9092"}
    assert read({**LEAST, **links}).topic == "document-links"


def test_files_that_cannot_be_used_are_named_with_their_variable(tmp_path: Path) -> None:
    """A missing, invalid, foreign or encrypted file is refused at the start, with its variable."""
    authority = Authority(tmp_path)
    mine, other = authority.issue("mine"), authority.issue("other")
    missing, text = tmp_path / "missing.pem", tmp_path / "text.pem"
    text.write_text("no certificate")

    def said(**files: Path) -> str:
        given = {f"KAFKA_SSL_{name}": str(path) for name, path in files.items()}
        return complaint(KAFKA_SECURITY_PROTOCOL="SSL", **given)

    assert said(CAFILE=missing).startswith("KAFKA_SSL_CAFILE: ")
    assert "cannot be read: No such file" in said(CERTFILE=mine.cert, KEYFILE=missing)
    assert "cannot be read: Is a directory" in said(CAFILE=tmp_path)
    assert "holds no CA certificate" in said(CAFILE=text)
    assert "is not the key of" in said(CERTFILE=mine.cert, KEYFILE=other.key)
    assert "is not in PEM form" in said(CERTFILE=text, KEYFILE=mine.key)
    locked = encrypted(mine.key, "secret")
    assert "KAFKA_SSL_KEYFILE" in said(CERTFILE=mine.cert, KEYFILE=locked)
    assert "is encrypted; decrypt it" in said(CERTFILE=mine.cert, KEYFILE=locked)
