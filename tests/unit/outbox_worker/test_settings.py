"""The environment becomes settings, or one message about all that is wrong with it."""

import ssl

import pytest

from outbox_worker.settings import SettingsError, read

LEAST = {"DATABASE_URL": "postgresql://db", "KAFKA_BOOTSTRAP_SERVERS": "broker:9092"}


def complaint(**variables: str) -> str:
    """Return what is said about the least environment with these variables."""
    with pytest.raises(SettingsError) as error:
        read({**LEAST, **variables})
    return str(error.value)


def test_defaults_are_the_documented_ones() -> None:
    """Two variables are enough to start with."""
    settings = read(LEAST)
    assert settings.topic == "document-links"
    assert settings.partitions == 12
    assert settings.exactly_once
    assert settings.batch_size == 5_000
    assert settings.compression == "none"
    assert settings.retention_days == 7
    assert (settings.http_host, settings.http_port) == ("127.0.0.1", 9090)
    assert settings.session_database_url == "postgresql://db"


def test_session_url_wins_for_sessions() -> None:
    """Where DATABASE_URL goes through a pooler, sessions have a URL of their own."""
    settings = read({**LEAST, "OUTBOX_SESSION_DATABASE_URL": "postgresql://direct"})
    assert settings.session_database_url == "postgresql://direct"


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        ("OUTBOX_PARTITION", "3", "did you mean OUTBOX_PARTITIONS?"),
        ("OUTBOX_RETENTION_DAYS", "15", "<= 14"),
        ("OUTBOX_RETENTION_DAYS", "0", ">= 1"),
        ("OUTBOX_PARTITIONS", "many", "int"),
        ("OUTBOX_DELIVERY", "twice", "one of exactly-once, at-least-once"),
        ("OUTBOX_TOPIC", "no spaces", "OUTBOX_TOPIC"),
        ("OUTBOX_HTTP_PORT", "70000", "<= 65535"),
        ("DATABASE_URL", "localhost/links", "DATABASE_URL: not a URL like postgresql://"),
        ("KAFKA_SECURITY_PROTOCOL", "TLS", "KAFKA_SECURITY_PROTOCOL"),
        ("KAFKA_SECURITY_PROTOCOL", "SASL_SSL", "KAFKA_SASL_USERNAME"),
        ("KAFKA_SSL_CERTFILE", "cert.pem", "KAFKA_SSL_KEYFILE"),
    ],
)
def test_wrong_variable_is_named(name: str, value: str, said: str) -> None:
    """A message names the variable and what it should be."""
    assert said in complaint(**{name: value})


def test_all_faults_are_told_at_once() -> None:
    """Nobody has to start five times to learn of five mistakes."""
    said = complaint(
        OUTBOX_PARTITIONS="0", OUTBOX_BATCH_SIZE="x", OUTBOX_TOPICS="a", DATABASE_URL=""
    )
    for name in ("OUTBOX_PARTITIONS", "OUTBOX_BATCH_SIZE", "OUTBOX_TOPICS", "DATABASE_URL"):
        assert name in said


def test_values_are_never_repeated() -> None:
    """A password in the wrong variable does not end up in a log."""
    assert "s3cret" not in complaint(OUTBOX_HTTP_PORT="s3cret", OUTBOX_TOPIC="s3cret s3cret")


@pytest.mark.parametrize("variable", ["DATABASE_URL", "OUTBOX_SESSION_DATABASE_URL"])
@pytest.mark.parametrize(
    "url",
    [
        "postgresql://u:s3c/ret@host/db",
        "postgresql://u:s3c#ret@host/db",
        "postgresql://u:s3c?ret@host/db",
        "postgresql://u:5432/ret@host/db",
        "postgresql://u:5432#ret@host/db",
        "postgresql://u:5432?ret@host/db",
        "postgresql://u:s3c@ret@host/db",
        "postgresql://u:s3c[ret@host/db",
        "postgresql://u:s3cret@host:abc/db",
        "postgresql://u:s3cret@host:70000/db",
        "postgresql://u:s3cret@host,/db",
        "postgresql://",
        "mysql://u:s3cret@host/db",
    ],
)
def test_url_that_cannot_be_read_is_not_repeated(variable: str, url: str) -> None:
    """One line says what to write instead, whatever the password did to the rest."""
    said = complaint(**{variable: url})
    assert said.startswith(f"{variable}: not a URL like ")
    assert "percent-encode" in said
    assert not [piece for piece in ("s3c", "ret", "abc", "\n") if piece in said]


@pytest.mark.parametrize(
    "url",
    [
        "postgresql://u:p%2Fw%40@host:5432/db?sslmode=require",
        "postgres://[::1]:5432,host:5433/db",
        "postgresql:///db?host=/var/run/postgresql",
        "postgresql://u@/db",
    ],
)
def test_url_that_asyncpg_reads_is_taken(url: str) -> None:
    """Several hosts, sockets and IPv6 addresses are right."""
    assert read({**LEAST, "DATABASE_URL": url}).database_url == url


@pytest.mark.parametrize(
    "brokers", ["localhost:abc", "a:9092,", "a:0", "a:70000", "[::1", "PLAINTEXT://a:1"]
)
def test_brokers_that_cannot_be_read_are_named(brokers: str) -> None:
    """What aiokafka would fail on with a traceback is said at the start."""
    said = complaint(KAFKA_BOOTSTRAP_SERVERS=brokers)
    assert said == "KAFKA_BOOTSTRAP_SERVERS: not a list like broker-1:9092,broker-2:9092"


@pytest.mark.parametrize("brokers", ["a", "a:9092, b:9093", "[::1]:9092", "::1"])
def test_brokers_that_aiokafka_reads_are_taken(brokers: str) -> None:
    """With and without ports, and as addresses."""
    assert read({**LEAST, "KAFKA_BOOTSTRAP_SERVERS": brokers}).bootstrap_servers == brokers


def test_kafka_clients_get_the_security_settings() -> None:
    """Every Kafka client is made with the protocol, the mechanism and the password."""
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
    context = read({**LEAST, "KAFKA_SECURITY_PROTOCOL": "SSL"}).kafka_client()["ssl_context"]
    assert not context.verify_flags & ssl.VERIFY_X509_STRICT
    assert context.verify_mode == ssl.CERT_REQUIRED
