"""The worker's settings: read from the environment once, validated together, passed down."""

from collections.abc import Iterator, Mapping
from typing import Annotated, Any, Literal

from aiokafka.conn import collect_hosts
from msgspec import Meta, Struct, field

from outbox_worker.environment import SettingsError, read_settings
from outbox_worker.kafka import connections, tls
from outbox_worker.postgres.url import read_url

PREFIX = "OUTBOX_"
MOST_PORT = 65_535


def _check_brokers(text: str) -> None:
    """Check that aiokafka can read the list: otherwise it raises when a client is made."""
    try:
        hosts = collect_hosts(text, randomize=False)
        if all(host and "/" not in host and 0 < port <= MOST_PORT for host, port, _ in hosts):
            return
    except ValueError:
        pass
    raise ValueError("not a list like broker-1:9092,broker-2:9092")


TopicName = Annotated[
    str,
    Meta(
        pattern=r"^[A-Za-z0-9._-]{1,150}$",
        description="1 to 150 letters, digits, dots, underscores and hyphens",
    ),
]
Count = Annotated[int, Meta(ge=1, le=100_000)]
# A ring of 16 slots: a day's rows must be gone two days before their slot comes round again.
RetentionDays = Annotated[int, Meta(ge=1, le=14)]


class Settings(Struct, frozen=True, kw_only=True):
    """The worker's settings, each under the name of its variable. Some are secret: never log one."""

    database_url: Annotated[str, read_url] = field(name="DATABASE_URL")
    session_url: Annotated[str, read_url] = field(name="OUTBOX_SESSION_DATABASE_URL", default="")

    bootstrap_servers: Annotated[str, _check_brokers] = field(name="KAFKA_BOOTSTRAP_SERVERS")
    security_protocol: Literal["PLAINTEXT", "SSL", "SASL_PLAINTEXT", "SASL_SSL"] = field(
        name="KAFKA_SECURITY_PROTOCOL", default="PLAINTEXT"
    )
    sasl_mechanism: Literal["PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512"] = field(
        name="KAFKA_SASL_MECHANISM", default="PLAIN"
    )
    sasl_username: str | None = field(name="KAFKA_SASL_USERNAME", default=None)
    sasl_password: str | None = field(name="KAFKA_SASL_PASSWORD", default=None)
    ssl_cafile: str | None = field(name="KAFKA_SSL_CAFILE", default=None)
    ssl_certfile: str | None = field(name="KAFKA_SSL_CERTFILE", default=None)
    ssl_keyfile: str | None = field(name="KAFKA_SSL_KEYFILE", default=None)

    topic: TopicName = field(name="OUTBOX_TOPIC", default="document-links")
    partitions: Count = field(name="OUTBOX_PARTITIONS", default=12)
    delivery: Literal["exactly-once", "at-least-once"] = field(
        name="OUTBOX_DELIVERY", default="exactly-once"
    )
    batch_size: Count = field(name="OUTBOX_BATCH_SIZE", default=5_000)
    compression: Literal["none", "gzip", "snappy", "lz4", "zstd"] = field(
        name="OUTBOX_COMPRESSION", default="none"
    )
    retention_days: RetentionDays = field(name="OUTBOX_RETENTION_DAYS", default=7)
    http_host: str = field(name="OUTBOX_HTTP_HOST", default="127.0.0.1")
    http_port: Annotated[int, Meta(ge=0, le=MOST_PORT)] = field(
        name="OUTBOX_HTTP_PORT", default=9090
    )

    @property
    def exactly_once(self) -> bool:
        """Whether events go in Kafka transactions."""
        return self.delivery == "exactly-once"

    @property
    def compression_type(self) -> str | None:
        """The codec as aiokafka takes it."""
        return None if self.compression == "none" else self.compression

    @property
    def session_database_url(self) -> str:
        """A URL whose sessions are Postgres' own: locks, LISTEN and SET last on them."""
        return self.session_url or self.database_url

    def kafka_client(self) -> dict[str, Any]:
        """Return the arguments that every Kafka client is made with."""
        return {
            **connections.LIMITS,
            "bootstrap_servers": self.bootstrap_servers,
            "security_protocol": self.security_protocol,
            "sasl_mechanism": self.sasl_mechanism,
            "sasl_plain_username": self.sasl_username,
            "sasl_plain_password": self.sasl_password,
            "ssl_context": self.tls_files,  # each connection makes the context
        }

    @property
    def tls_files(self) -> tls.Files | None:
        """The files for TLS with Kafka; None: plain text."""
        if not self.security_protocol.endswith("SSL"):
            return None
        return tls.Files(self.ssl_cafile, self.ssl_certfile, self.ssl_keyfile)


def read(environment: Mapping[str, str]) -> Settings:
    """Return the settings in an environment; SettingsError with a line for each problem."""
    settings = read_settings(Settings, PREFIX, environment, _missing_partners)
    try:
        if settings.tls_files is not None:
            settings.tls_files.context()
    except tls.UnusableFileError as error:
        raise SettingsError(str(error)) from error
    return settings


def _missing_partners(given: Mapping[str, str]) -> Iterator[str]:
    """Yield a line for each variable that another one needs beside it."""
    pairs = [
        ("KAFKA_SSL_CERTFILE", "KAFKA_SSL_KEYFILE"),
        ("KAFKA_SSL_KEYFILE", "KAFKA_SSL_CERTFILE"),
    ]
    if given.get("KAFKA_SECURITY_PROTOCOL", "").startswith("SASL"):
        secrets = ("KAFKA_SASL_USERNAME", "KAFKA_SASL_PASSWORD")
        pairs += [("KAFKA_SECURITY_PROTOCOL", name) for name in secrets]
    for name, partner in pairs:
        if name in given and partner not in given:
            yield f"{partner}: missing variable; {name} needs it"
