"""The worker's settings: read from the environment once, validated together, passed down."""

from collections.abc import Iterator, Mapping
from contextlib import suppress
from typing import Annotated, Any, Literal, NamedTuple

from aiokafka.conn import collect_hosts
from msgspec import Meta, Struct, field

from outbox_worker.environment import read_settings
from outbox_worker.kafka import connections, tls
from outbox_worker.postgres.registration import DEFAULT_COMPRESSION, Registration
from outbox_worker.postgres.tls import check_url

MOST_PORT = 65_535
Codec = Literal["none", "gzip", "snappy", "lz4", "zstd"]
"""The codecs of Kafka's record batches."""
TOPIC_NAME = Meta(
    pattern=r"^[A-Za-z0-9._-]{1,150}$",
    description="1 to 150 letters, digits, dots, underscores and hyphens",
)


def _check_brokers(text: str) -> None:
    """Check that aiokafka can read the list: otherwise it raises when a client is made."""
    with suppress(ValueError):
        hosts = collect_hosts(text, randomize=False)
        if all(host and "/" not in host and 0 < port <= MOST_PORT for host, port, _ in hosts):
            return
    raise ValueError("not a list like broker-1:9092,broker-2:9092")


class KafkaSettings(Struct, frozen=True, kw_only=True, rename=lambda name: f"KAFKA_{name.upper()}"):
    """The settings with which every Kafka client connects."""

    bootstrap_servers: Annotated[str, _check_brokers]
    security_protocol: Literal["PLAINTEXT", "SSL", "SASL_PLAINTEXT", "SASL_SSL"] = "PLAINTEXT"
    sasl_mechanism: Literal["PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512"] = "PLAIN"
    sasl_username: str | None = None
    sasl_password: str | None = None
    ssl_cafile: str | None = None
    ssl_certfile: str | None = None
    ssl_keyfile: str | None = None

    def kafka_client(self) -> dict[str, Any]:
        """Return the arguments that every Kafka client is made with."""
        uses_tls = self.security_protocol.endswith("SSL")
        files = tls.Files(self.ssl_cafile, self.ssl_certfile, self.ssl_keyfile)
        return {
            **connections.LIMITS,
            "bootstrap_servers": self.bootstrap_servers,
            "security_protocol": self.security_protocol,
            "sasl_mechanism": self.sasl_mechanism,
            "sasl_plain_username": self.sasl_username,
            "sasl_plain_password": self.sasl_password,
            "ssl_context": files if uses_tls else None,  # each connection makes the context
        }


class Compression(NamedTuple):
    """A codec, and why it is in force."""

    codec: str
    reason: str

    @property
    def aiokafka_type(self) -> str | None:
        """The codec's name in aiokafka; None: no compression."""
        return None if self.codec == "none" else self.codec


class Settings(
    KafkaSettings, frozen=True, kw_only=True, rename=lambda name: f"OUTBOX_{name.upper()}"
):
    """The worker's settings, each under the name of its variable. Some are secret: never log one."""

    database_url: Annotated[str, check_url] = field(name="DATABASE_URL")
    session_url: Annotated[str, check_url] = field(name="OUTBOX_SESSION_DATABASE_URL", default="")
    topic: Annotated[str, TOPIC_NAME] = "document-links"
    partitions: Annotated[int, Meta(ge=1, le=100_000)] = 12
    delivery: Literal["exactly-once", "at-least-once"] = "exactly-once"
    batch_size: Annotated[int, Meta(ge=1, le=100_000)] = 5_000
    compression: Codec | None = None
    """None: as recorded when the relay was registered. `compression_of` returns what is in force."""
    retention_days: Annotated[int, Meta(ge=1, le=14)] = 7
    """The outbox is a ring of 16 daily slots. A slot must be empty two days before it is used again."""
    http_host: str = "127.0.0.1"
    http_port: Annotated[int, Meta(ge=0, le=MOST_PORT)] = 9090

    @property
    def exactly_once(self) -> bool:
        """Whether events are published in Kafka transactions."""
        return self.delivery == "exactly-once"

    def compression_of(self, registration: Registration | None) -> Compression:
        """Return the codec of the setting, else of the registration; None: before the first start.

        A relay that was registered before `zstd` became the default keeps `none`: its subscribers may
        lack the codec.
        """
        if self.compression is not None:
            return Compression(self.compression, "OUTBOX_COMPRESSION")
        if registration is None:
            return Compression(DEFAULT_COMPRESSION, "the default, which the first start records")
        return Compression(registration.compression, "recorded in outbox_relay")

    @property
    def session_database_url(self) -> str:
        """The URL of the server itself, or of a pooler in session mode: locks, LISTEN and SET need it."""
        return self.session_url or self.database_url


def read(environment: Mapping[str, str]) -> Settings:
    """Return the settings in an environment; SettingsError with a line for each problem."""
    return read_settings(Settings, "OUTBOX_", environment, _problems_of_kafka)


def _problems_of_kafka(given: Mapping[str, str]) -> Iterator[str]:
    """Yield a line for each missing variable that a given one needs, and for an unusable TLS file."""
    protocol = given.get("KAFKA_SECURITY_PROTOCOL", "")
    pairs = [(tls.CERT_FILE, tls.KEY_FILE), (tls.KEY_FILE, tls.CERT_FILE)]
    if protocol.startswith("SASL"):
        secrets = ("KAFKA_SASL_USERNAME", "KAFKA_SASL_PASSWORD")
        pairs += [("KAFKA_SECURITY_PROTOCOL", name) for name in secrets]
    missing = [(name, partner) for name, partner in pairs if name in given and partner not in given]
    yield from (f"{partner}: missing variable; {name} needs it" for name, partner in missing)
    if protocol.endswith("SSL") and not missing:
        try:
            tls.Files(*map(given.get, tls.VARIABLES)).context()
        except tls.UnusableFileError as error:
            yield str(error)
