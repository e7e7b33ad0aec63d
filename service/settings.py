"""The service's settings: read from the environment once, validated together, passed down."""

import difflib
import re
from collections.abc import Iterator, Mapping
from typing import Annotated, Final, Literal
from urllib.parse import urlsplit

import limits
import msgspec
from msgspec import Meta, Struct

from service.store.postgres.url import UrlError, read_url

PREFIX: Final = "LINKS_"

MOST: Final = 10**15 - 1
"""The largest integer of a structured field (RFC 9651, section 3.3.1), as in `RateLimit-Policy`."""

RATE: Final = 'one rate of at least one call, like "1000/minute"'

_service_link = re.compile(
    r"\w+_("
    r"SERVICE_(HOST|PORT(_\w+)?)="
    r"|PORT(_\d+_(TCP|UDP|SCTP))?=(tcp|udp|sctp)://"
    r"|PORT_\d+_(TCP|UDP|SCTP)_(PROTO|PORT|ADDR)="
    r"|NAME=/|ENV_\w+="
    r")"
).match
"""Matches `name=value` of the variables that Kubernetes and Docker set for each other service.

For a service named `links` they set LINKS_PORT=tcp://10.0.0.1:8080, which is no port to listen on.
"""

_origin = re.compile(r"(\*|https?://([A-Za-z0-9.-]+|\[[0-9a-f:]+\])(:\d{1,5})?)\Z").match


class SettingsError(Exception):
    """The environment does not make sense; each line says which variable and why."""


class Settings(Struct, frozen=True, forbid_unknown_fields=True, rename=lambda name: name.upper()):
    """What can be set. Names of variables are the fields' in upper case."""

    database_url: str
    links_host: str = "127.0.0.1"
    links_port: Annotated[int, Meta(ge=0, le=65535)] = 8080
    links_workers: Annotated[int, Meta(ge=1, le=64)] = 1
    links_pool_size: Annotated[int, Meta(ge=1, le=1000)] = 10
    links_entity_policy: Literal["registered", "any"] = "registered"
    links_rate_limit: str = "1000/minute"
    links_rate_limit_storage: str = "memory"
    """`memory`, each process on its own, or a Redis URL that several share."""
    links_cors_origins: str = ""
    """Origins whose pages may call from a browser, comma-separated, `*` for any; none unless told."""
    links_request_timeout: Annotated[float, Meta(gt=0, le=3600)] = 10.0
    """Seconds that a caller has to send a request's head, and again for its body."""
    links_idle_timeout: Annotated[int, Meta(ge=0, le=3600)] = 75
    """Seconds between requests until a connection is closed: more than a load balancer's 60."""
    links_max_connections: Annotated[int, Meta(ge=1, le=1_000_000)] = 10_000
    """Of each process."""
    links_drain_seconds: Annotated[float, Meta(ge=0, le=3600)] = 5.0
    """Seconds after SIGTERM for which connections are still accepted: a balancer has to see /readyz."""
    links_log_level: Literal["debug", "info", "warning", "error"] = "info"
    """`debug` logs every request."""

    @property
    def cors_origins(self) -> list[str]:
        """The origins, one by one."""
        return [origin.strip() for origin in self.links_cors_origins.split(",") if origin.strip()]


def read_settings(environ: Mapping[str, str]) -> Settings:
    """Read and check the settings.

    Raises:
        SettingsError: one line for each variable that is missing, wrong or unknown.
    """
    environ = {k: v for k, v in environ.items() if not _service_link(f"{k}={v}")}
    known = [name.upper() for name in Settings.__struct_fields__]
    given = {name: environ[name] for name in known if environ.get(name)}
    problems = [
        _unknown(name, known) for name in environ if name.startswith(PREFIX) and name not in known
    ]
    for field in msgspec.structs.fields(Settings):
        problems += _problems(field, given.get(field.encode_name))
    if problems:
        raise SettingsError("\n".join(problems))
    return msgspec.convert(given, Settings, strict=False)


def _problems(field: msgspec.structs.FieldInfo, value: str | None) -> Iterator[str]:
    """Check one variable by itself: msgspec stops at the first that is wrong."""
    name = field.encode_name
    if value is None:
        if field.required:
            yield f"{name}: missing variable"
        return
    try:
        msgspec.convert(value, field.type, strict=False)
    except msgspec.ValidationError as error:
        yield f"{name}: {error}"
    if name == "LINKS_RATE_LIMIT" and not is_rate(value):
        yield f"{name}: not {RATE}"
    if name == "LINKS_CORS_ORIGINS" and not all(map(_is_origin, value.split(","))):
        yield f"{name}: not a list like https://app.example.com,https://example.com:8443, nor `*`"
    if name == "LINKS_RATE_LIMIT_STORAGE" and value != "memory" and not _names_redis(value):
        yield f"{name}: neither `memory` nor a URL like redis://user:password@host:6379/0"
    if name == "DATABASE_URL":
        try:
            read_url(value)
        except UrlError as error:
            yield f"{name}: {error}"


def is_rate(text: str) -> bool:
    """Whether it is one rate that lets calls through: of several, only the first would count.

    The response headers show its calls and its seconds, each as an integer of RFC 9651.
    """
    try:
        rates = limits.parse_many(text)
    except ValueError:
        return False
    return len(rates) == 1 and 0 < rates[0].amount <= MOST and rates[0].get_expiry() <= MOST


def _is_origin(text: str) -> bool:
    """Whether it is an origin as browsers send it, or `*`."""
    return _origin(text.strip()) is not None


def _names_redis(url: str) -> bool:
    try:
        parts = urlsplit(url)
        return (
            parts.scheme in {"redis", "rediss"}
            and bool(parts.hostname)
            and parts.port != 0  # and it is a number at all
            and (parts.path.strip("/") or "0").isdigit()
        )
    except ValueError:
        return False


def _unknown(name: str, known: list[str]) -> str:
    nearest = difflib.get_close_matches(name, known, n=1, cutoff=0)[0]
    return f"{name}: unknown variable; did you mean {nearest}?"
