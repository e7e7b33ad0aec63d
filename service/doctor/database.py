"""The checks of the database: connection, TLS, pooler, schema, role, limits and clock."""

import asyncio
import time
from collections.abc import Awaitable
from typing import Any, Final

import asyncpg

from service import logs
from service.core.errors import Unavailable
from service.doctor.checks import Check
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

MISSING_PRIVILEGES: Final = """
SELECT format('GRANT %s ON %I TO %I;', privilege, name, current_user)
FROM (VALUES
    ('schema_version', 'SELECT'),
    ('workspaces', 'SELECT'),
    ('api_keys', 'SELECT'),
    ('documents', 'SELECT, INSERT, UPDATE'),
    ('entities', 'SELECT, INSERT, UPDATE'),
    ('document_links', 'SELECT, INSERT, UPDATE'),
    ('idempotency_keys', 'SELECT, INSERT, UPDATE, DELETE'),
    ('erased_documents', 'SELECT'),
    ('outbox', 'INSERT')
) AS t (name, privileges)
CROSS JOIN LATERAL regexp_split_to_table(privileges, ', ') AS privilege
WHERE NOT has_table_privilege(name, privilege)
"""

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
        return [Check("tls", passed=False, found=_reason(error), mend=mend)]
    except ERRORS as error:
        mend = "check DATABASE_URL and that the server listens"
        return [Check("database", passed=False, found=_reason(error), mend=mend)]
    finally:
        if session is not None:
            session.terminate()


async def _session_checks(database: Database, session: Session, settings: Settings) -> list[Check]:
    checks = [Check("database", passed=True, found="connected"), _tls(session)]
    pooler = await _guarded("pooler", _pooler(database, session))
    checks.append(pooler)
    if not pooler.passed:  # the other checks' prepared statements might be lost
        return checks
    schema = await _guarded("schema", _schema(session))
    checks += [schema, await _guarded("primary", _primary(session))]
    if schema.passed:  # otherwise the tables may be missing
        checks.append(await _guarded("privileges", _privileges(session)))
    return [
        *checks,
        await _guarded("connections", _connections(session, settings)),
        await _guarded("durability", _durability(session)),
        await _guarded("clock", _clock(session)),
    ]


async def _guarded(name: str, check: Awaitable[Check]) -> Check:
    """Return the check's result, or a failed check if it raises an error."""
    try:
        return await check
    except ERRORS as error:
        return Check(name, passed=False, found=_reason(error), mend="see the lines above")


def _tls(session: Session) -> Check:
    transport: Any = session._transport  # type: ignore[attr-defined]  # noqa: SLF001 - asyncpg has no other way
    tls = transport.get_extra_info("ssl_object")
    if tls is None:
        return Check("tls", passed=True, found="not encrypted")
    verified = "verified" if tls.context.verify_mode else "not verified"
    return Check(
        "tls", passed=True, found=f"{tls.version()}, the server's certificate is {verified}"
    )


async def _pooler(database: Database, session: Session) -> Check:
    if not await database.keeps_statements():
        found, _, mend = USE_A_POOLER_THAT_KEEPS_THEM.partition("; nothing was written: ")
        return Check("pooler", passed=False, found=found, mend=mend)
    other = await database.connect()
    try:
        backend = await session.fetchval(BACKEND)
        async with other.transaction():
            lent = backend == await other.fetchval(BACKEND)
            lent = lent or backend != await session.fetchval(BACKEND)
    finally:
        other.terminate()
    mode = "transaction mode, prepared statements are kept" if lent else "none, or session mode"
    return Check("pooler", passed=True, found=mode)


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


async def _privileges(session: Session) -> Check:
    missing = [row[0] for row in await session.fetch(MISSING_PRIVILEGES)]
    found = f"{len(missing)} missing" if missing else "all there"
    return Check("privileges", passed=not missing, found=found, mend=" ".join(missing))


async def _connections(session: Session, settings: Settings) -> Check:
    wanted = settings.links_workers * settings.links_pool_size
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


def _reason(error: BaseException) -> str:
    return logs.first_line(error) or type(error).__name__
