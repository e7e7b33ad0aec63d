"""The environment becomes settings, or one message about all that is wrong with it."""

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
        ("DATABASE_URL", "localhost/links", "DATABASE_URL: Expected `str` matching regex"),
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
