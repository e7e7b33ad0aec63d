"""What the worker is told: read once from the environment, validated together, passed down."""

import difflib
import re
from collections.abc import Mapping
from typing import Annotated, Any, Literal

import msgspec
from aiokafka.conn import collect_hosts

from outbox_worker.kafka import connections, tls
from outbox_worker.postgres.url import UrlError, read_url

PREFIX = "OUTBOX_"
KAFKA_PREFIX = "KAFKA_"
# Of difflib's ratio: KAFKA_SASL_USER is similar to KAFKA_SASL_USERNAME (0.88), and
# KAFKA_SSL_KEYSTORE_LOCATION to no setting (0.73 at most).
SIMILAR = 0.85
URLS = ("DATABASE_URL", "OUTBOX_SESSION_DATABASE_URL")
BROKERS = "KAFKA_BOOTSTRAP_SERVERS"
NO_BROKERS = "not a list like broker-1:9092,broker-2:9092"
# Matches `name=value` of the variables that Kubernetes and Docker set for each other service. For a
# service named `outbox-http` they set OUTBOX_HTTP_PORT=tcp://10.0.0.1:80, no port to listen on.
SERVICE_LINK = re.compile(
    r"\w+_("
    r"SERVICE_(HOST|PORT(_\w+)?)="
    r"|PORT(_\d+_(TCP|UDP|SCTP))?=(tcp|udp|sctp)://"
    r"|PORT_\d+_(TCP|UDP|SCTP)_(PROTO|PORT|ADDR)="
    r"|NAME=/|ENV_\w+="
    r")"
)
Name = Annotated[str, msgspec.Meta(min_length=1)]
TopicName = Annotated[str, msgspec.Meta(pattern=r"^[A-Za-z0-9._-]{1,150}$")]
Count = Annotated[int, msgspec.Meta(ge=1, le=100_000)]
MOST_PORT = 65_535
Port = Annotated[int, msgspec.Meta(ge=0, le=MOST_PORT)]
# A ring of 16 slots: a day's rows must be gone two days before their slot comes round again.
RetentionDays = Annotated[int, msgspec.Meta(ge=1, le=14)]


class SettingsError(Exception):
    """The environment is not one to start with; the text names every variable at fault."""


class Settings(msgspec.Struct, frozen=True, kw_only=True):
    """Every setting under the name of its variable. Texts never appear in logs: some are secret."""

    database_url: Name = msgspec.field(name="DATABASE_URL")
    session_url: Name | None = msgspec.field(name="OUTBOX_SESSION_DATABASE_URL", default=None)

    bootstrap_servers: Name = msgspec.field(name="KAFKA_BOOTSTRAP_SERVERS")
    security_protocol: Literal["PLAINTEXT", "SSL", "SASL_PLAINTEXT", "SASL_SSL"] = msgspec.field(
        name="KAFKA_SECURITY_PROTOCOL", default="PLAINTEXT"
    )
    sasl_mechanism: Literal["PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512"] = msgspec.field(
        name="KAFKA_SASL_MECHANISM", default="PLAIN"
    )
    sasl_username: str | None = msgspec.field(name="KAFKA_SASL_USERNAME", default=None)
    sasl_password: str | None = msgspec.field(name="KAFKA_SASL_PASSWORD", default=None)
    ssl_cafile: str | None = msgspec.field(name="KAFKA_SSL_CAFILE", default=None)
    ssl_certfile: str | None = msgspec.field(name="KAFKA_SSL_CERTFILE", default=None)
    ssl_keyfile: str | None = msgspec.field(name="KAFKA_SSL_KEYFILE", default=None)

    topic: TopicName = msgspec.field(name="OUTBOX_TOPIC", default="document-links")
    partitions: Count = msgspec.field(name="OUTBOX_PARTITIONS", default=12)
    delivery: Literal["exactly-once", "at-least-once"] = msgspec.field(
        name="OUTBOX_DELIVERY", default="exactly-once"
    )
    batch_size: Count = msgspec.field(name="OUTBOX_BATCH_SIZE", default=5_000)
    compression: Literal["none", "gzip", "snappy", "lz4", "zstd"] = msgspec.field(
        name="OUTBOX_COMPRESSION", default="none"
    )
    retention_days: RetentionDays = msgspec.field(name="OUTBOX_RETENTION_DAYS", default=7)
    http_host: Name = msgspec.field(name="OUTBOX_HTTP_HOST", default="127.0.0.1")
    http_port: Port = msgspec.field(name="OUTBOX_HTTP_PORT", default=9090)

    @property
    def exactly_once(self) -> bool:
        """Whether events go in Kafka transactions."""
        return self.delivery == "exactly-once"

    @property
    def compression_type(self) -> str | None:
        """The codec as aiokafka wants it."""
        return None if self.compression == "none" else self.compression

    @property
    def session_database_url(self) -> str:
        """A URL whose sessions are the server's own: locks, LISTEN and SET last on them."""
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
            "ssl_context": self.tls_files,  # connections.py makes the context
        }

    @property
    def tls_files(self) -> tls.Files | None:
        """The files that TLS needs; None: plain text."""
        if not self.security_protocol.endswith("SSL"):
            return None
        return tls.Files(self.ssl_cafile, self.ssl_certfile, self.ssl_keyfile)


def read(environment: Mapping[str, str]) -> Settings:
    """Return the settings in an environment; SettingsError with all that is wrong with it."""
    environment = {k: v for k, v in environment.items() if not SERVICE_LINK.match(f"{k}={v}")}
    fields = {field.encode_name: field for field in msgspec.structs.fields(Settings)}
    given = {name: environment[name] for name in fields if environment.get(name, "") != ""}
    problems = [
        *_unknown(environment, fields),
        *_misspelt(environment, fields),
        *_invalid(given, fields),
        *_unpaired(given),
    ]
    if problems:
        raise SettingsError("; ".join(problems))
    settings = msgspec.convert(given, Settings, strict=False)
    try:
        if settings.tls_files is not None:
            settings.tls_files.context()
    except tls.UnusableFileError as error:
        raise SettingsError(str(error)) from error
    return settings


def _unknown(environment: Mapping[str, str], known: Mapping[str, object]) -> list[str]:
    problems = []
    for name in sorted(environment):
        if name.startswith(PREFIX) and name not in known:
            nearest = difflib.get_close_matches(name, known, n=1, cutoff=0.0)
            problems.append(f"{name} is not a setting; did you mean {nearest[0]}?")
    return problems


def _misspelt(environment: Mapping[str, str], known: Mapping[str, object]) -> list[str]:
    """Name the KAFKA_ variables that are nearly a setting which is not given.

    Others may be for another program: images of Kafka's tools define many.
    """
    kafka = [name for name in known if name.startswith(KAFKA_PREFIX) and name not in environment]
    problems = []
    for name in sorted(environment):
        if name.startswith(KAFKA_PREFIX) and name not in known:
            nearest = difflib.get_close_matches(name, kafka, n=1, cutoff=SIMILAR)
            problems += [f"{name} is not a setting; did you mean {each}?" for each in nearest]
    return problems


def _invalid(
    given: Mapping[str, str], fields: Mapping[str, msgspec.structs.FieldInfo]
) -> list[str]:
    """Say what each variable is not: never its value, which may be a password."""
    problems = []
    for name, field in fields.items():
        if name not in given:
            if field.required:
                problems.append(f"{name} is required")
            continue
        try:
            msgspec.convert(given[name], field.type, strict=False)
        except msgspec.ValidationError as error:
            problems.append(f"{name}: {_choices(field.type) or error}")
        if name in URLS:
            problems += _url_problems(name, given[name])
        if name == BROKERS and not _names_brokers(given[name]):
            problems.append(f"{name}: {NO_BROKERS}")
    return problems


def _url_problems(name: str, url: str) -> list[str]:
    try:
        read_url(url)
    except UrlError as error:
        return [f"{name}: {error}"]
    return []


def _names_brokers(text: str) -> bool:
    """Whether aiokafka can read it, which otherwise raises when a client is made."""
    try:
        hosts = collect_hosts(text, randomize=False)
    except ValueError:
        return False
    return all(host and "/" not in host and 0 < port <= MOST_PORT for host, port, _ in hosts)


def _choices(kind: Any) -> str | None:  # noqa: ANN401 - any type a field may have
    options = getattr(kind, "__args__", ())
    if not options or not all(isinstance(option, str) for option in options):
        return None
    return f"one of {', '.join(options)}"


def _unpaired(given: Mapping[str, str]) -> list[str]:
    problems = []
    if given.get("KAFKA_SECURITY_PROTOCOL", "").startswith("SASL") and not (
        "KAFKA_SASL_USERNAME" in given and "KAFKA_SASL_PASSWORD" in given
    ):
        problems.append("SASL needs KAFKA_SASL_USERNAME and KAFKA_SASL_PASSWORD")
    if ("KAFKA_SSL_CERTFILE" in given) != ("KAFKA_SSL_KEYFILE" in given):
        problems.append("KAFKA_SSL_CERTFILE and KAFKA_SSL_KEYFILE need each other")
    return problems
