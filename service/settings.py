"""The service's settings: read from the environment once, validated together, passed down."""

import os
import re
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Annotated, Final, Literal
from urllib.parse import urlsplit

import limits
from msgspec import Meta, Struct

from service import environment
from service.store.postgres.tls import check_url

SHARED_FOLDER: Final = "PROMETHEUS_MULTIPROC_DIR"
"""The variable with the folder that worker processes share. prometheus-client reads it too."""

MAX_INTEGER: Final = 10**15 - 1
"""The largest integer of a structured field (RFC 9651, section 3.3.1), as in `RateLimit-Policy`."""

RATE: Final = 'one rate of at least one call, like "1000/minute"'

_is_origin = re.compile(r"\s*(\*|https?://([A-Za-z0-9.-]+|\[[0-9a-f:]+\])(:\d{1,5})?)\s*\Z").match


def is_rate(text: str) -> bool:
    """Return whether a text is one rate of at least one call.

    The response headers show its calls and its seconds, each as an integer of RFC 9651.
    """
    try:
        rate, *others = limits.parse_many(text)
    except ValueError:
        return False
    return not others and 0 < rate.amount <= MAX_INTEGER and rate.get_expiry() <= MAX_INTEGER


def _check_rate(text: str) -> None:
    if not is_rate(text):
        raise ValueError(f"not {RATE}")


def _check_storage(text: str) -> None:
    with suppress(ValueError):  # urlsplit: the port is no number
        url = urlsplit(text)
        is_redis = url.scheme in {"redis", "rediss"} and url.hostname and url.port != 0
        if text == "memory" or (is_redis and (url.path.strip("/") or "0").isdigit()):
            return
    raise ValueError("neither `memory` nor a URL like redis://user:password@host:6379/0")


def _check_origins(text: str) -> None:
    if not all(map(_is_origin, text.split(","))):
        raise ValueError(
            "not a list like https://app.example.com,https://example.com:8443, nor `*`"
        )


class Settings(Struct, frozen=True, rename=str.upper):
    """The service's settings. The variable of a field has the field's name, in upper case."""

    database_url: Annotated[str, check_url]
    links_host: str = "127.0.0.1"
    links_port: Annotated[int, Meta(ge=0, le=65535)] = 8080
    links_workers: Annotated[int, Meta(ge=1, le=64)] = 1
    links_pool_size: Annotated[int, Meta(ge=1, le=1000)] = 10
    links_entity_policy: Literal["registered", "any"] = "registered"
    links_rate_limit: Annotated[str, _check_rate] = "1000/minute"
    links_rate_limit_storage: Annotated[str, _check_storage] = "memory"
    """`memory`: each process counts on its own. A Redis URL: several processes count together."""
    links_cors_origins: Annotated[str, _check_origins] = ""
    """Origins whose pages may call from a browser, comma-separated. `*`: any. Empty: none."""
    links_request_timeout: Annotated[float, Meta(gt=0, le=3600)] = 10.0
    """Seconds that a caller has to send a request's head, and again for its body."""
    links_idle_timeout: Annotated[int, Meta(ge=0, le=3600)] = 75
    """Seconds without a request after which a connection is closed: more than a load balancer's 60."""
    links_max_connections: Annotated[int, Meta(ge=1, le=1_000_000)] = 10_000
    """The most connections of callers that a process keeps open."""
    links_drain_seconds: Annotated[float, Meta(ge=0, le=3600)] = 5.0
    """Seconds after SIGTERM for which connections are still accepted while /readyz answers 503."""
    links_keep_deleted_days: Annotated[int, Meta(ge=0, le=36_500)] = 0
    """Days after which removed links and deleted documents are removed from the database. 0: never."""
    links_metrics_rate_limited_keys: Literal["true", "false"] = "false"
    """`true`: the metric of rate-limited calls has the ids of their keys."""
    links_log_level: Literal["debug", "info", "warning", "error"] = "info"
    """`debug` logs every request."""

    @property
    def cors_origins(self) -> list[str]:
        """The origins, one by one."""
        return [origin.strip() for origin in self.links_cors_origins.split(",") if origin.strip()]


def read_settings(environ: Mapping[str, str]) -> Settings:
    """Return the settings in an environment; SettingsError with a line for each problem."""
    return environment.read_settings(Settings, "LINKS_", environ)


def shared_folder() -> Path | None:
    """Return the folder that this process shares with other worker processes; None: there are none."""
    folder = os.environ.get(SHARED_FOLDER)
    return None if folder is None else Path(folder)
