"""Opens connections to Postgres: each host within a bound, and only to a primary.

The service and the worker hold this file and `postgres_url.py` byte for byte alike.

A connection can be open and useless: a balancer or NAT forgot it, or its server became read-only.
Three things find that out:
- TCP keepalives and TCP_USER_TIMEOUT, when the network drops packets;
- `is_usable`, a round trip with a bound, before a connection that was idle is used again. A proxy
  that ends TCP itself answers keepalives although the connection behind it is gone;
- error 25006 of a write, for which the caller drops the connection.
"""

import asyncio
import os
import random
import socket
import ssl
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any, Final, Generic, TypeVar
from urllib.parse import urlencode

import asyncpg

from .postgres_url import ENCODE, Host, PostgresUrl, UrlError, read_url

HOST_TIMEOUT_S: Final = 2
"""For one host to answer and to let the client in. `connect_timeout` can only make it shorter."""
STAGGER_S: Final = 0.5
"""Without an answer for so long, the next host is tried beside it; the first primary wins."""
CHECK_TIMEOUT_S: Final = 1
"""For the answer to `is_usable`."""
TRUSTED_S: Final = 2
"""A connection that was opened or checked within this time is used without a check."""

SOCKET_OPTIONS: Final = (
    ("keepalives_idle", "TCP_KEEPIDLE", 3),
    ("keepalives_interval", "TCP_KEEPINTVL", 1),
    ("keepalives_count", "TCP_KEEPCNT", 3),
    ("tcp_user_timeout", "TCP_USER_TIMEOUT", 5_000),
)
"""libpq's name, the kernel's, and the default: a silent network is noticed after 6 s when the connection
is idle, and when bytes stay unacknowledged after 5 s (the last one is in ms).
"""

TLS_FILES: Final = ("sslrootcert", "sslcert", "sslkey", "sslcrl")
TLS_PARAMETERS: Final = (
    *TLS_FILES,
    *("sslpassword", "sslnegotiation", "ssl_min_protocol_version", "ssl_max_protocol_version"),
)

CHECK: Final = "BEGIN READ WRITE; ROLLBACK"
"""Fails on a standby (0A000), and needs no prepared statement, which a pooler may lose."""

NEXT_HOST: Final = (
    OSError,
    TimeoutError,
    asyncpg.PostgresConnectionError,
    asyncpg.OperatorInterventionError,  # starting up, shutting down
    asyncpg.TooManyConnectionsError,
)
"""Errors after which another host may do."""

ERRORS: Final = (
    OSError,
    TimeoutError,
    asyncpg.PostgresError,
    asyncpg.InterfaceError,
    asyncpg.InternalClientError,
)
"""What a statement can fail with. (asyncpg says InternalClientError when a connection breaks between two
statements, or while a cancelled one is still being cleaned up.)
"""


class StandbyError(ConnectionError):
    """The server is a standby: it may be behind, and nothing can be written on it."""


class TlsError(ConnectionError):
    """The TLS handshake failed; the text names the host, the reason and the parameter."""


class EncodingError(Exception):
    """The database cannot hold every character: its encoding is not UTF8."""


class Connection(asyncpg.Connection):  # type: ignore[misc, type-arg, unused-ignore] # generic in the stubs only
    """A connection that knows when it was last seen to be usable."""

    checked_at = 0.0

    async def is_usable(self) -> bool:
        """Return whether the server answers and can be written to; asks at most every TRUSTED_S.

        A False connection is of no use: the caller terminates it and opens another one.
        """
        if self.is_closed():
            return False
        if time.monotonic() - self.checked_at < TRUSTED_S:
            return True
        try:
            await self.execute(CHECK, timeout=CHECK_TIMEOUT_S)
        except ERRORS:
            return False
        self.checked_at = time.monotonic()
        # The server reports a change of this setting by itself, from Postgres 14 on.
        return getattr(self.get_settings(), "default_transaction_read_only", "off") != "on"


C = TypeVar("C", bound=Connection)


class Connector(Generic[C]):
    """Opens connections with one URL; the host that let it in last is tried first."""

    def __init__(
        self,
        url: str,
        application_name: str,
        command_timeout_s: float | None,
        connection_class: type[C],
    ) -> None:
        self._url = read_url(url)
        given = self._url.parameters
        self._hosts = list(self._url.hosts)
        if given.get("load_balance_hosts") == "random":
            random.shuffle(self._hosts)
        name = given.get("application_name", application_name)
        self._server_settings = {"application_name": name}
        if "options" in given:
            self._server_settings["options"] = given["options"]
        self._command_timeout_s = command_timeout_s
        self._class = connection_class

    async def connect(self) -> C:
        """Open a connection to the primary.

        Raises:
            UrlError: a file that the URL names cannot be used.
            EncodingError: the database is not in UTF8.
            ERRORS: no host lets the program in.
        """
        arguments = self._arguments()
        waiting, running = list(self._hosts), dict[asyncio.Task[C], Host]()
        failures: list[BaseException] = []
        try:
            while waiting or running:
                if waiting:
                    host = waiting.pop(0)
                    running[asyncio.create_task(self._open(host, arguments))] = host
                await asyncio.wait(
                    running,
                    timeout=STAGGER_S if waiting else None,
                    return_when=asyncio.FIRST_COMPLETED,
                )
                for task in [task for task in running if task.done()]:
                    host = running.pop(task)
                    try:
                        connection = task.result()
                    except NEXT_HOST as failure:
                        failures.append(failure)
                        continue
                    self._try_first(host)
                    return connection
        finally:
            for task in running:
                task.add_done_callback(_drop)
                task.cancel()
        if len(failures) == 1:
            raise failures[0]
        raise ConnectionError("; ".join(map(str, failures))) from failures[-1]

    def _try_first(self, host: Host) -> None:
        self._hosts.remove(host)
        self._hosts.insert(0, host)

    async def _open(self, host: Host, arguments: dict[str, Any]) -> C:
        where = f"{host.name or 'the local socket'}:{host.port or 5432}"
        seconds = min(self._url.number("connect_timeout", HOST_TIMEOUT_S), HOST_TIMEOUT_S)
        connection: C | None = None
        try:
            with _tls_errors_named(where, self._url):
                async with asyncio.timeout(seconds):
                    connection = await asyncpg.connect(
                        host=host.name, port=host.port or None, **arguments
                    )
                    _set_keepalive(connection, self._url)
                    await _see_that_it_is_a_primary(connection, where)
        except TimeoutError:
            _terminate(connection)
            raise TimeoutError(f"{where} does not answer within {seconds} s") from None
        except BaseException:
            _terminate(connection)
            raise
        connection.checked_at = time.monotonic()
        return connection

    def _arguments(self) -> dict[str, Any]:
        """Return what asyncpg is to be called with, but for the host."""
        given = self._url.parameters
        _see_that_files_can_be_read(given)
        tls: dict[str, str] = {name: given[name] for name in TLS_PARAMETERS if name in given}
        if self._url.sslmode:
            tls["sslmode"] = self._url.sslmode
        arguments: dict[str, Any] = {
            "user": given.get("user"),
            "password": given.get("password"),
            "database": given.get("dbname") or given.get("database"),
            "passfile": given.get("passfile"),
            "krbsrvname": given.get("krbsrvname"),
            "gsslib": given.get("gsslib"),
            "target_session_attrs": "any",  # the check below sees a standby too
            "command_timeout": self._command_timeout_s,
            "connection_class": self._class,
            "server_settings": self._server_settings,
        }
        if tls.get("sslrootcert") == "system":
            arguments["ssl"] = _system_context(tls)
            arguments["direct_tls"] = tls.get("sslnegotiation") == "direct"
        else:
            arguments["dsn"] = f"postgresql://?{urlencode(tls)}"
        return arguments


async def _see_that_it_is_a_primary(connection: Connection, where: str) -> None:
    try:
        await connection.execute(CHECK)
    except (asyncpg.FeatureNotSupportedError, asyncpg.ReadOnlySQLTransactionError):
        raise StandbyError(f"{where} is a standby (read-only): name the primary") from None
    encoding = getattr(connection.get_settings(), "server_encoding", "UTF8")
    if encoding != "UTF8":
        raise EncodingError(
            f"the database's encoding is {encoding}, which cannot hold every character: "
            "make one with CREATE DATABASE … ENCODING 'UTF8' TEMPLATE template0"
        )


def _drop(attempt: asyncio.Task[C]) -> None:
    """End the connection of an attempt that came too late."""
    if not attempt.cancelled() and attempt.exception() is None:
        attempt.result().terminate()


def _terminate(connection: Connection | None) -> None:
    if connection is not None:
        connection.terminate()


def _set_keepalive(connection: Connection, url: PostgresUrl) -> None:
    """Let the kernel find a silent network. uvloop's sockets take no options, but their copies do."""
    transport: Any = connection._transport  # type: ignore[attr-defined]  # noqa: SLF001 - no other way
    own = transport.get_extra_info("socket")
    if own is None or own.family == socket.AF_UNIX or url.parameters.get("keepalives") == "0":
        return
    with socket.socket(fileno=os.dup(own.fileno())) as copy, suppress(OSError):
        copy.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        for parameter, option, default in SOCKET_OPTIONS:
            if hasattr(socket, option):  # macOS names them otherwise
                value = url.number(parameter, default)
                copy.setsockopt(socket.IPPROTO_TCP, getattr(socket, option), value)


def _see_that_files_can_be_read(given: dict[str, str]) -> None:
    for name in TLS_FILES:
        path = given.get(name)
        if path is None or (name == "sslrootcert" and path == "system"):
            continue
        try:
            with open(path, "rb"):  # noqa: PTH123 - a path as libpq takes it
                pass
        except OSError as error:
            raise UrlError(f"{name}: {path}: {error.strerror or error}") from None


def _system_context(tls: dict[str, str]) -> ssl.SSLContext:
    """Return a context that trusts the certificates of the system, for `sslrootcert=system`."""
    context = ssl.create_default_context()
    context.set_alpn_protocols(["postgresql"])
    for name, attribute in (("min", "minimum_version"), ("max", "maximum_version")):
        version = tls.get(f"ssl_{name}_protocol_version")
        if version:
            setattr(context, attribute, ssl.TLSVersion[version.replace(".", "_")])
    if "sslcert" in tls:
        context.load_cert_chain(
            tls["sslcert"], tls.get("sslkey"), lambda: tls.get("sslpassword", "")
        )
    return context


@contextmanager
def _tls_errors_named(where: str, url: PostgresUrl) -> Iterator[None]:
    """Say of a TLS error which host and which parameter it is about; asyncpg's words do not."""
    mode = url.sslmode or "prefer"
    try:
        yield
    except ssl.SSLCertVerificationError as error:
        said = error.verify_message or error.reason
        root = url.parameters.get("sslrootcert", "~/.postgresql/root.crt")
        raise TlsError(
            f"the certificate of {where} is refused: {said} (sslrootcert={root}, sslmode={mode})"
        ) from None
    except ssl.SSLError as error:
        files = [n for n in TLS_FILES if n in url.parameters]
        about = f"; look at {', '.join(files)}" if files else ""
        raise TlsError(f"TLS with {where} failed: {error.reason or error}{about}") from None
    except asyncpg.ClientConfigurationError as error:
        raise UrlError(f"{str(error).splitlines()[0]}; {ENCODE}") from None
    except (ValueError, IndexError):
        raise UrlError(f"its hosts, ports or parameters cannot be used; {ENCODE}") from None
