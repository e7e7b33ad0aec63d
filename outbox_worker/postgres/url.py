"""Reads a Postgres URL: each parameter of libpq works, is ignored or is refused by name.

Both programs have the same file. asyncpg's own reader is not used: it sends unknown parameters to the
server, which refuses the connection. It also uses `urllib.parse.urlsplit`, which refuses an IPv6
address among several hosts from Python 3.12 on.
"""

import configparser
import getpass
import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from ipaddress import IPv6Address
from pathlib import Path
from typing import Final
from urllib.parse import unquote

EXAMPLE: Final = "postgresql://user:password@host:5432/database"
ENCODE: Final = (
    "percent-encode what is special in user, password and parameters: / is %2F, # is %23, ? is %3F, "
    "@ is %40, : is %3A, [ is %5B"
)
NO_URL: Final = f"not a URL like {EXAMPLE}; {ENCODE}"

SSLMODES: Final = ("disable", "allow", "prefer", "require", "verify-ca", "verify-full")
TLS_VERSIONS: Final = ("TLSv1", "TLSv1.1", "TLSv1.2", "TLSv1.3")

CHOICES: Final[dict[str, tuple[str, ...]]] = {
    "channel_binding": ("disable", "prefer", "require"),  # `require`: by a verified host name
    "gssencmode": ("disable", "prefer"),  # asyncpg encrypts with TLS only
    "gssdelegation": ("0",),
    "keepalives": ("0", "1"),
    "load_balance_hosts": ("disable", "random"),
    "min_protocol_version": ("3.0",),
    "replication": ("false", "off", "no", "0"),
    "requiressl": ("0", "1"),
    "ssl": ("true",),
    "ssl_max_protocol_version": TLS_VERSIONS,
    "ssl_min_protocol_version": TLS_VERSIONS,
    "sslcertmode": ("allow",),
    "sslmode": SSLMODES,
    "sslnegotiation": ("postgres", "direct"),
    # The programs always connect to the primary, because they write.
    "target_session_attrs": ("any", "read-write", "primary"),
}
"""The values of a parameter that the programs accept; any other value is refused by name."""

NUMBERS: Final = (
    "connect_timeout",
    "keepalives_count",
    "keepalives_idle",
    "keepalives_interval",
    "tcp_user_timeout",
)

USED: Final = frozenset({
    *("application_name", "dbname", "database", "host", "hostaddr", "options", "passfile"),
    *("password", "port", "service", "servicefile", "user"),
    *("gsslib", "krbsrvname", "sslcert", "sslcrl", "sslkey", "sslpassword", "sslrootcert"),
    *("keepalives", "load_balance_hosts", "requiressl", "ssl", "sslmode", "sslnegotiation"),
    *("ssl_max_protocol_version", "ssl_min_protocol_version"),
    *NUMBERS,
})  # fmt: skip

IGNORED: Final = frozenset({
    *("channel_binding", "gssdelegation", "gssencmode", "min_protocol_version", "replication"),
    *("sslcertmode", "target_session_attrs"),  # CHOICES has only values of these that have no effect
    "client_encoding",  # asyncpg speaks UTF-8
    "fallback_application_name",  # each program names itself
    "max_protocol_version",  # asyncpg speaks 3.0, which every server accepts
    "sslcompression",  # no server compresses TLS any more
    "sslsni",  # asyncpg always sends the server's name
})  # fmt: skip
"""Parameters without an effect."""

REFUSED: Final = {
    "gssencmode": "asyncpg has no GSSAPI encryption; use sslmode",
    "oauth_client_id": "asyncpg has no OAuth; use a password",
    "oauth_client_secret": "asyncpg has no OAuth; use a password",
    "oauth_issuer": "asyncpg has no OAuth; use a password",
    "oauth_scope": "asyncpg has no OAuth; use a password",
    "require_auth": "asyncpg cannot restrict the server's choice; use sslmode=verify-full",
    "requirepeer": "asyncpg cannot check the owner of a socket",
    "scram_client_key": "asyncpg needs the password itself",
    "scram_server_key": "asyncpg needs the password itself",
    "sslcrldir": "asyncpg reads one file of revoked certificates; use sslcrl",
    "sslkeylogfile": "it writes the keys of the encryption to a file; remove it",
}
"""Parameters that ask for something that the programs cannot do, with the reason or a remedy."""

PARAMETERS: Final = USED | IGNORED | REFUSED.keys()


class UrlError(ValueError):
    """The URL cannot be used. The text names the parameter, and never shows a value."""


@dataclass(frozen=True)
class Host:
    """One server to try; `name` None: asyncpg's default, the local socket. `port` 0: its default."""

    name: str | None
    port: int


@dataclass(frozen=True)
class PostgresUrl:
    """The parts of a URL."""

    hosts: list[Host]
    parameters: dict[str, str] = field(repr=False)
    """libpq's parameters by name. A later one replaces an earlier one, as in libpq."""

    def number(self, name: str, default: int) -> int:
        """Return a parameter that is a whole number. Zero and less mean the default, as in libpq."""
        given = int(self.parameters.get(name) or 0)
        return given if given > 0 else default

    @property
    def sslmode(self) -> str | None:
        """The mode that the parameters ask for; None: asyncpg's default, `prefer`."""
        given = self.parameters
        if given.get("sslrootcert") == "system":
            return given.get("sslmode", "verify-full")
        if given.get("ssl") or given.get("requiressl") == "1":
            return given.get("sslmode", "require")
        return given.get("sslmode")


def read_url(url: str) -> PostgresUrl:
    """Return the parts of a URL; UrlError if it is no URL, or has a parameter that cannot be used."""
    scheme, separator, rest = url.partition("://")
    if scheme not in {"postgres", "postgresql"} or not separator or not rest or "#" in rest:
        raise UrlError(NO_URL)
    before_query, _, query = rest.partition("?")
    authority, _, database = before_query.partition("/")
    credentials, _, hosts = authority.rpartition("@")
    if "@" in credentials + database or "[" in credentials:
        raise UrlError(NO_URL)
    parameters = {"user": credentials, "dbname": database}
    if ":" in credentials:
        parameters["user"], _, parameters["password"] = credentials.partition(":")
    parameters = {name: unquote(value) for name, value in parameters.items() if value}
    given = parameters | dict(_query(query))
    given = _service(given) | given
    _check(given)
    read = PostgresUrl(_hosts(hosts, given), given)
    _check_together(read)
    return read


def _query(query: str) -> Iterator[tuple[str, str]]:
    """Split the query as libpq does: a `+` is a plus, and each part has a `=`."""
    for pair in query.split("&") if query else []:
        name, separator, value = pair.partition("=")
        name = unquote(name)
        if not separator or (name not in PARAMETERS and not _is_shown_safely(name, value)):
            raise UrlError(NO_URL)
        yield name, unquote(value)


def _is_shown_safely(name: str, value: str) -> bool:
    """Return whether an unknown name may be shown: it cannot be part of a password with a bare `?`."""
    return name.replace("_", "").isalnum() and "@" not in value


def _service(given: dict[str, str]) -> dict[str, str]:
    """Return the parameters of the named connection service, from libpq's service file."""
    name = given.get("service") or os.environ.get("PGSERVICE")
    if not name:
        return {}
    path = given.get("servicefile") or os.environ.get("PGSERVICEFILE") or "~/.pg_service.conf"
    sections = configparser.ConfigParser(interpolation=None)
    try:
        sections.read_string(Path(path).expanduser().read_text())
    except (OSError, RuntimeError, configparser.Error):  # RuntimeError: there is no home
        raise UrlError(f"service: its file {path} cannot be read") from None
    if name not in sections:
        raise UrlError(f"service: {path} has no section of that name")
    return dict(sections[name])


def _check(given: dict[str, str]) -> None:
    for name, value in given.items():
        if name not in PARAMETERS:
            raise UrlError(
                f"{name}: not a parameter of libpq; a setting of the server is `options=-c%20name=value`"
            )
        choices = CHOICES.get(name)
        if choices and value not in choices:
            reason = f"; {REFUSED[name]}" if name in REFUSED else ""
            raise UrlError(f"{name}: not one of {', '.join(choices)}{reason}; {ENCODE}")
        if name in REFUSED and not choices:
            raise UrlError(f"{name}: {REFUSED[name]}")
        if name in NUMBERS and not value.lstrip("-").isdigit():
            raise UrlError(f"{name}: not a whole number; {ENCODE}")


def _check_together(read: PostgresUrl) -> None:
    given = read.parameters
    verifies = read.sslmode == "verify-full"
    if given.get("sslrootcert") == "system" and not verifies:
        raise UrlError("sslmode: `sslrootcert=system` needs sslmode=verify-full")
    if given.get("sslnegotiation") == "direct" and read.sslmode not in SSLMODES[3:]:
        raise UrlError("sslnegotiation: `direct` needs sslmode=require, verify-ca or verify-full")
    if given.get("channel_binding") == "require" and not verifies:
        raise UrlError(
            "channel_binding: asyncpg has none; remove it, or verify the server with "
            "sslmode=verify-full&sslrootcert=system"
        )
    if "hostaddr" in given and verifies:
        raise UrlError("hostaddr: sslmode=verify-full needs the host's name; use host")
    if "user" not in given and "PGUSER" not in os.environ and not _has_a_name():
        raise UrlError(
            "user: the URL names none, and the user that runs this program has no name; "
            "write postgresql://user@host/database"
        )


def _has_a_name() -> bool:
    """Return whether the user of this process, which is asyncpg's default, has a name."""
    try:
        return bool(getpass.getuser())
    except (ImportError, KeyError, OSError):  # KeyError up to Python 3.12
        return False


def _hosts(authority: str, given: dict[str, str]) -> list[Host]:
    """Return the hosts in their order: those of `hostaddr`, else of `host`, else before the path."""
    text = given.get("hostaddr") or given.get("host") or unquote(authority)
    ports = given.get("port", "").split(",")
    hosts = text.split(",")
    if len(hosts) > 1 and not all(hosts):
        raise UrlError(NO_URL)
    if len(ports) not in {1, len(hosts)} or not all(map(_is_port, filter(None, ports))):
        raise UrlError(f"port: not one number for all hosts, nor one for each; {ENCODE}")
    pairs = zip(hosts, ports * len(hosts) if len(ports) == 1 else ports, strict=True)
    return [_host(host, port) for host, port in pairs]


def _host(text: str, port: str) -> Host:
    """Return a host from `name`, `name:port`, `[IPv6]`, `[IPv6]:port` or the path of a socket's folder."""
    name = text
    if text.startswith("["):
        name, bracket, after = text[1:].partition("]")
        if not bracket or (after and not after.startswith(":")) or not _is_ipv6(name):
            raise UrlError(NO_URL)
        port = after[1:] or port
    elif text.count(":") == 1:
        name, _, own = text.partition(":")
        port = own or port
    elif ":" in text and not _is_ipv6(text):
        raise UrlError(NO_URL)
    if "[" in name or "]" in name:
        raise UrlError(NO_URL)
    if port and not _is_port(port):
        raise UrlError(NO_URL)
    return Host(name or None, int(port) if port else 0)


def _is_port(text: str) -> bool:
    return text.isdecimal() and 0 < int(text) < 1 << 16


def _is_ipv6(text: str) -> bool:
    try:
        IPv6Address(text)
    except ValueError:
        return False
    return True
