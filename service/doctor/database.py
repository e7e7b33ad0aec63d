"""The checks of the database: connection, TLS, pooler, schema, role, limits and clock."""

import asyncio
import time
from collections.abc import Awaitable
from ipaddress import ip_address
from ssl import SSLObject
from typing import Any, Final

import asyncpg

from service.core.errors import Unavailable
from service.doctor.checks import Check
from service.doctor.role import check_privileges, check_role_settings
from service.logs import first_line
from service.settings import Settings
from service.store.database import (
    BACKEND,
    CONNECTION_ERRORS,
    USE_A_POOLER_THAT_KEEPS_THEM,
    Database,
    Session,
)
from service.store.migrations.version import READ_ONLY, SchemaError, check_version
from service.store.postgres.connection import EncodingError
from service.store.postgres.tls import TlsError
from service.store.postgres.url import UrlError

TIMEOUT_S: Final = 30.0
"""The longest time for all checks of the database, in seconds: several hosts may each take 5 s."""
SKEW_S: Final = 5.0
"""The greatest difference of the clocks, in seconds. Keys expire and rates are counted by the service's."""
VERIFY: Final = "add sslmode=verify-full and, for a CA of your own, sslrootcert to DATABASE_URL"

ERRORS: Final = (
    *CONNECTION_ERRORS,
    asyncpg.PostgresError,
    asyncpg.InterfaceError,
    asyncpg.InternalClientError,
    EncodingError,
    SchemaError,
    Unavailable,
    UrlError,
)

# -1: the role or the database has no limit of its own.
CONNECTION_LIMIT: Final = """
SELECT least(
    current_setting('max_connections')::integer
        - current_setting('superuser_reserved_connections')::integer,
    nullif(r.rolconnlimit, -1),
    nullif(d.datconnlimit, -1)
)
FROM pg_roles AS r
JOIN pg_database AS d ON d.datname = current_database()
WHERE r.rolname = session_user
"""


async def check_database(settings: Settings) -> list[Check]:
    """Return the checks of the database; without a connection, the one check that has failed."""
    async with Database(settings.database_url, pool_size=1) as database:
        return await _database(database, settings)


async def _database(database: Database, settings: Settings) -> list[Check]:
    session: Session | None = None
    try:
        async with asyncio.timeout(TIMEOUT_S):
            session = await database.connect()
            return await _session_checks(database, session, settings)
    except TlsError as error:
        mend = "correct sslmode, sslrootcert, sslcert and sslkey in DATABASE_URL"
        return [Check("tls", passed=False, found=first_line(error), mend=mend)]
    except ERRORS as error:
        mend = "check DATABASE_URL and that the server listens"
        return [Check("database", passed=False, found=first_line(error), mend=mend)]
    finally:
        if session is not None:
            session.terminate()


async def _session_checks(database: Database, session: Session, settings: Settings) -> list[Check]:
    peer, tls = _transport(session)
    checks = [Check("database", passed=True, found="connected"), check_encryption(peer, tls)]
    pooled, pooler = await _pooler(database, session)
    checks.append(pooler)
    if not pooler.passed:  # the other checks' prepared statements might be lost
        return checks
    schema = await _guarded("schema", _schema(session))
    checks += [schema, await _guarded("primary", _primary(session))]
    if schema.passed:  # otherwise the tables may be missing
        checks.append(await _guarded("privileges", check_privileges(session, settings)))
    role_settings = check_role_settings(session, transaction_pooler=pooled)
    return [
        *checks,
        await _guarded("role settings", role_settings),
        await _guarded("connections", _connections(session, settings, pooled=pooled)),
        await _guarded("durability", _durability(session)),
        await _guarded("clock", _clock(session)),
    ]


async def _guarded(name: str, check: Awaitable[Check]) -> Check:
    """Return the check's result, or a failed check if it raises an error."""
    try:
        return await check
    except ERRORS as error:
        return Check(name, passed=False, found=first_line(error), mend="see the lines above")


def _transport(session: Session) -> tuple[str | None, SSLObject | None]:
    """Return the server's address, None for a local socket, and the connection's TLS."""
    transport: Any = session._transport  # type: ignore[attr-defined]  # noqa: SLF001 - asyncpg has no other way
    peer = transport.get_extra_info("peername")
    address = peer[0] if isinstance(peer, tuple) else None
    return address, transport.get_extra_info("ssl_object")


def check_encryption(address: str | None, tls: SSLObject | None) -> Check:
    """Check that a connection over a network is encrypted, and to the right server; else it is a warning."""
    if tls is not None and tls.context.verify_mode:
        found = f"{tls.version()}, the server's certificate is verified"
        return Check("tls", passed=True, found=found)
    if address is None or ip_address(address).is_loopback:
        return Check("tls", passed=True, found="none is needed: the server is on this machine")
    if tls is None:
        found = f"the connection to {address} is not encrypted"
        mend = f"{VERIFY}; or leave it, if nobody else can read this network"
    else:
        found = f"{tls.version()}, but the certificate of {address} is not verified"
        mend = f"{VERIFY}: another server could pose as this one"
    return Check("tls", passed=True, found=found, mend=mend, warning=True)


async def _pooler(database: Database, session: Session) -> tuple[bool, Check]:
    """Return whether there is a pooler in transaction mode, and the check."""
    try:
        return await _pooler_mode(database, session)
    except ERRORS as error:
        check = Check("pooler", passed=False, found=first_line(error), mend="see the lines above")
        return False, check


async def _pooler_mode(database: Database, session: Session) -> tuple[bool, Check]:
    if not await database.keeps_statements():
        found, _, mend = USE_A_POOLER_THAT_KEEPS_THEM.partition("; nothing was written: ")
        return True, Check("pooler", passed=False, found=found, mend=mend)
    other = await database.connect()
    try:
        backend = await session.fetchval(BACKEND)
        async with other.transaction():
            lent = backend == await other.fetchval(BACKEND)
            lent = lent or backend != await session.fetchval(BACKEND)
    finally:
        other.terminate()
    mode = "transaction mode, prepared statements are kept" if lent else "none, or session mode"
    return lent, Check("pooler", passed=True, found=mode)


async def _schema(session: Session) -> Check:
    try:
        await check_version(session)
    except SchemaError as error:
        return Check("schema", passed=False, found=str(error), mend="python -m service migrate")
    return Check("schema", passed=True, found="as this release needs it")


async def _primary(session: Session) -> Check:
    if await session.fetchval("SHOW transaction_read_only") == "on":
        mend = "search default_transaction_read_only in the role, the database and the server"
        return Check("primary", passed=False, found=READ_ONLY, mend=mend)
    return Check("primary", passed=True, found="yes")


async def _connections(session: Session, settings: Settings, *, pooled: bool) -> Check:
    wanted = settings.links_workers * settings.links_pool_size
    if pooled:
        found = f"{wanted} wanted of the pooler, whose limits are not checked"
        return Check("connections", passed=True, found=found)
    limit = await session.fetchval(CONNECTION_LIMIT)
    mend = (
        "lower LINKS_POOL_SIZE or LINKS_WORKERS, or raise max_connections, or the CONNECTION LIMIT of the "
        "role or the database"
    )
    return Check(
        "connections", passed=wanted <= limit, found=f"{wanted} wanted, {limit} allowed", mend=mend
    )


async def _durability(session: Session) -> Check:
    fsync = await session.fetchval("SHOW fsync")
    mend = "ALTER SYSTEM SET fsync = on; SELECT pg_reload_conf();"
    return Check("durability", passed=fsync == "on", found=f"fsync = {fsync}", mend=mend)


async def _clock(session: Session) -> Check:
    skew = abs((await session.fetchval("SELECT clock_timestamp()")).timestamp() - time.time())
    return Check(
        "clock",
        passed=skew < SKEW_S,
        found=f"{skew:.1f} s apart",
        mend="synchronise the clocks (NTP)",
    )
