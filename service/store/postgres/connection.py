"""Opens connections to Postgres: each host within a time limit, and only to a primary.

Both programs have the same file. An open connection can be useless, because a load balancer or a NAT
forgot it, or because its server became read-only. Three checks find such a connection:
- TCP keepalives and TCP_USER_TIMEOUT, when the network drops packets;
- `is_usable`, a round trip with a time limit, before an idle connection is used again: a proxy that
  ends TCP itself answers keepalives although the connection behind it is gone;
- error 25006 of a write, after which the caller drops the connection.
"""

import asyncio
import os
import random
import socket
import time
from collections.abc import Mapping
from contextlib import suppress
from functools import partial
from typing import Any, Final, Generic, TypeVar
from urllib.parse import urlencode

import asyncpg

from .hosts import HOST_TIMEOUT_S, LoopTo, addresses_of, first
from .tls import TLS_PARAMETERS, check_files, system_context, tls_errors_named
from .url import Host, PostgresUrl, read_url

CHECK_TIMEOUT_S: Final = 1
"""The longest wait for the answer to `is_usable`."""
TRUSTED_S: Final = 2
"""The time after an opening or a check in which a connection is used without another check."""

SOCKET_OPTIONS: Final = (
    ("keepalives_idle", "TCP_KEEPIDLE", 3),
    ("keepalives_interval", "TCP_KEEPINTVL", 1),
    ("keepalives_count", "TCP_KEEPCNT", 3),
    ("tcp_user_timeout", "TCP_USER_TIMEOUT", 5_000),
)
"""For each option: libpq's parameter, the kernel's name, and the default (s; tcp_user_timeout: ms).

A lost network is noticed after 6 s on an idle connection, and 5 s after bytes that are not acknowledged.
"""

CHECK: Final = "BEGIN READ WRITE; ROLLBACK"
"""Fails on a read-only replica (0A000). It needs no prepared statement, which a pooler may lose."""

SETTINGS: Final = {
    # Time limits: the client limits each statement. A limit of the server could end a COMMIT that waits
    # for the synchronous replica, or a session that waits for work.
    **dict.fromkeys(("idle_session_timeout", "lock_timeout"), "0"),
    **dict.fromkeys(("statement_timeout", "transaction_timeout"), "0"),
    "exit_on_error": "off",  # `on` ends the session at any error, such as a missing right
    "default_transaction_isolation": "read committed",  # a statement sees the rows it waited for
    # Plans: the statements are written for indexes, and their time limits for index scans.
    **dict.fromkeys(("enable_indexscan", "enable_indexonlyscan", "enable_nestloop"), "on"),
    "enable_partition_pruning": "on",
    "jit": "off",
    "max_parallel_workers_per_gather": "0",
    "work_mem": "4MB",  # Postgres' default; with less, sorts use files, which temp_file_limit may forbid
}
"""The settings of each session. They override those of the role and of the database."""

ERRORS: Final = (
    OSError,
    TimeoutError,
    asyncpg.PostgresError,
    asyncpg.InterfaceError,
    asyncpg.InternalClientError,
)
"""The errors of a statement. asyncpg raises InternalClientError when a connection breaks between two
statements, or while it still cleans up after a cancelled one.
"""


class StandbyError(ConnectionError):
    """The server is a read-only replica: it may lag, and nothing can be written on it."""


class EncodingError(Exception):
    """The database's encoding is not UTF8, so that it cannot hold every character."""


class Connection(asyncpg.Connection):  # type: ignore[misc, type-arg, unused-ignore] # generic in the stubs only
    """A connection that remembers when it was last seen to be usable."""

    checked_at = 0.0

    async def is_usable(self) -> bool:
        """Return whether the server answers and can be written to; it is asked at most every TRUSTED_S.

        If it is not, the caller terminates the connection and opens another one.
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
    """Opens connections with one URL; the host of the last connection is tried first."""

    def __init__(
        self,
        url: str,
        application_name: str,
        command_timeout_s: float | None,
        connection_class: type[C],
        **settings: str,
    ) -> None:
        """Read the URL; `settings` are set in each session, in addition to SETTINGS."""
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
        self._settings = SETTINGS | settings

    async def connect(self) -> C:
        """Open a connection to the primary.

        Raises:
            UrlError: a file that the URL names cannot be used.
            EncodingError: the database's encoding is not UTF8.
            ERRORS: no host accepts the connection.
        """
        arguments = self._arguments()
        hosts = [partial(self._reach, host, arguments) for host in self._hosts]
        return await first(hosts)

    async def _reach(self, host: Host, arguments: dict[str, Any]) -> C:
        """Open a connection to a host: to the first of its addresses that accepts one."""
        where = f"{host.name or 'the local socket'}:{host.port or 5432}"
        addresses = await addresses_of(host, where)
        attempts = [partial(self._open, host, where, each, arguments) for each in addresses]
        connection = await first(attempts)
        self._hosts.remove(host)
        self._hosts.insert(0, host)
        return connection

    async def _open(
        self, host: Host, where: str, address: str | None, arguments: dict[str, Any]
    ) -> C:
        seconds = min(self._url.number("connect_timeout", HOST_TIMEOUT_S), HOST_TIMEOUT_S)
        loop: Any = LoopTo(address)
        connection: C | None = None
        try:
            with tls_errors_named(where, self._url):
                async with asyncio.timeout(seconds):
                    connection = await asyncpg.connect(
                        host=host.name, port=host.port or None, loop=loop, **arguments
                    )
                    _set_keepalive(connection, self._url)
                    await connection.execute(_set(self._settings))
                    await _check_primary(connection, where)
        except BaseException as error:
            if connection is not None:
                connection.terminate()
            if isinstance(error, TimeoutError):
                raise TimeoutError(f"{where} does not answer within {seconds} s") from None
            if isinstance(error, asyncpg.InterfaceError | asyncpg.InternalClientError):
                raise ConnectionError(f"{where}: {error}") from error
            raise
        connection.checked_at = time.monotonic()
        return connection

    def _arguments(self) -> dict[str, Any]:
        """Return asyncpg's arguments, except for the host."""
        given = self._url.parameters
        check_files(given)
        tls: dict[str, str] = {name: given[name] for name in TLS_PARAMETERS if name in given}
        if self._url.sslmode:
            tls["sslmode"] = self._url.sslmode
        arguments: dict[str, Any] = {
            **{n: given.get(n) for n in ("user", "password", "passfile", "krbsrvname", "gsslib")},
            "database": given.get("dbname") or given.get("database"),
            "target_session_attrs": "any",  # the check below finds a read-only replica too
            "command_timeout": self._command_timeout_s,
            "connection_class": self._class,
            "server_settings": self._server_settings,
        }
        if tls.get("sslrootcert") == "system":
            arguments["ssl"] = system_context(tls)
            arguments["direct_tls"] = tls.get("sslnegotiation") == "direct"
        else:
            arguments["dsn"] = f"postgresql://?{urlencode(tls)}"
        return arguments


async def _check_primary(connection: Connection, where: str) -> None:
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


def _set(settings: Mapping[str, str]) -> str:
    """Return statements that set the settings that this version of Postgres has.

    They are statements because PgBouncer refuses most settings in the startup message. The first one
    lifts the role's time limit from the second.
    """
    values = ", ".join(f"('{name}', '{value}')" for name, value in settings.items())
    return f"""
    SET statement_timeout = 0;
    SELECT set_config(name, value, false)
    FROM (VALUES {values}) AS s (name, value)
    WHERE current_setting(name, true) IS NOT NULL
    """  # noqa: S608 - constants of the programs


def _set_keepalive(connection: Connection, url: PostgresUrl) -> None:
    """Let the kernel notice a lost network. uvloop's sockets take no options, but their copies do."""
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
