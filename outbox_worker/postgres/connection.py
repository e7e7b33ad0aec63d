"""Opens connections to Postgres: each host within a bound, and only to a primary.

The service and the worker hold this file and the other modules `postgres_*.py` byte for byte alike.

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
import time
from collections.abc import Mapping
from contextlib import suppress
from functools import partial
from typing import Any, Final, Generic, TypeVar
from urllib.parse import urlencode

import asyncpg

from .hosts import HOST_TIMEOUT_S, LoopTo, addresses_of, first
from .tls import (
    TLS_PARAMETERS,
    see_that_files_can_be_read,
    system_context,
    tls_errors_named,
)
from .url import Host, PostgresUrl, read_url

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

CHECK: Final = "BEGIN READ WRITE; ROLLBACK"
"""Fails on a standby (0A000), and needs no prepared statement, which a pooler may lose."""

SETTINGS: Final = {
    # Of time: each statement has the client's limit. A server's limit may end the wait of a COMMIT
    # for its standby, or a session that waits for work.
    **dict.fromkeys(("idle_session_timeout", "lock_timeout"), "0"),
    **dict.fromkeys(("statement_timeout", "transaction_timeout"), "0"),
    "exit_on_error": "off",  # a refused function would end the session
    "default_transaction_isolation": "read committed",  # a statement sees what it waited for
    # Of plans: the statements are written for indexes, and their time limits for index scans.
    **dict.fromkeys(("enable_indexscan", "enable_indexonlyscan", "enable_nestloop"), "on"),
    "enable_partition_pruning": "on",
    "jit": "off",
    "max_parallel_workers_per_gather": "0",
    "work_mem": "4MB",  # Postgres' own default; with less, sorts go to files, which may be forbidden
}
"""Settings in which a session does not follow its role or its database; a test lists all of them."""

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
        **settings: str,
    ) -> None:
        """Take how to connect; `settings` are set in each session, beside SETTINGS."""
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
            EncodingError: the database is not in UTF8.
            ERRORS: no host lets the program in.
        """
        arguments = self._arguments()
        hosts = [partial(self._reach, host, arguments) for host in self._hosts]
        return await first(hosts)

    async def _reach(self, host: Host, arguments: dict[str, Any]) -> C:
        """Open a connection to a host: to the first of its addresses that lets the program in."""
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
        loop: Any = None if address is None else LoopTo(address)
        connection: C | None = None
        try:
            with tls_errors_named(where, self._url):
                async with asyncio.timeout(seconds):
                    connection = await asyncpg.connect(
                        host=host.name, port=host.port or None, loop=loop, **arguments
                    )
                    _set_keepalive(connection, self._url)
                    await connection.execute(_set(self._settings))
                    await _see_that_it_is_a_primary(connection, where)
        except TimeoutError:
            _terminate(connection)
            raise TimeoutError(f"{where} does not answer within {seconds} s") from None
        except (asyncpg.InterfaceError, asyncpg.InternalClientError) as error:
            _terminate(connection)
            raise ConnectionError(f"{where}: {error}") from error
        except BaseException:
            _terminate(connection)
            raise
        connection.checked_at = time.monotonic()
        return connection

    def _arguments(self) -> dict[str, Any]:
        """Return what asyncpg is to be called with, but for the host."""
        given = self._url.parameters
        see_that_files_can_be_read(given)
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
            arguments["ssl"] = system_context(tls)
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


def _set(settings: Mapping[str, str]) -> str:
    """Return statements that set those of the settings that this version of Postgres has.

    Statements, because PgBouncer refuses most settings in the startup message. The first one lets
    the others take longer than the role's statements may.
    """
    values = ", ".join(f"('{name}', '{value}')" for name, value in settings.items())
    return f"""
    SET statement_timeout = 0;
    SELECT set_config(name, value, false)
    FROM (VALUES {values}) AS s (name, value)
    WHERE current_setting(name, true) IS NOT NULL
    """  # noqa: S608 - constants of the programs


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
