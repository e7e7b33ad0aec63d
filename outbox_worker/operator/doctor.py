"""`doctor`: checks everything that the worker needs, and tells how to mend what is wrong."""

import contextlib
import os
import time
from collections.abc import Awaitable

import asyncpg
import typer
from aiokafka.errors import KafkaError

from outbox_worker.environment import SettingsError
from outbox_worker.logs import reason
from outbox_worker.operator import kafka_checks, terminal
from outbox_worker.operator.checks import Check, Report
from outbox_worker.operator.encryption import check_session
from outbox_worker.postgres import pause
from outbox_worker.postgres.registration import (
    POOLED,
    POOLED_MEND,
    RefusedError,
    check_schema,
    read_cluster_identity,
    registered,
)
from outbox_worker.postgres.sessions import (
    ERRORS,
    UnusableUrlError,
    has_privilege,
    is_read_only,
    pooled,
    session,
)
from outbox_worker.relay.retention import DAY_S, SLOTS, first_created_at, table_of
from outbox_worker.settings import Settings, read

TIMEOUT_S = 30
SKEW_S = 5
DAYS_OF_GRACE = 2

PRIVILEGES = {
    "outbox": "SELECT",
    "outbox_relay": "SELECT, INSERT",
    "outbox_checkpoints": "SELECT, INSERT, DELETE",
    "outbox_tasks": "SELECT, INSERT, UPDATE, DELETE",
    "outbox_pause": "SELECT, INSERT, DELETE",
    "schema_version": "SELECT",
}

# The privileges for clearing a slot, which is read by its own name first.
SLOT_PRIVILEGES = ("SELECT", "TRUNCATE")

SLOTS_WITHOUT = """
SELECT string_agg(inhrelid::regclass::text, ', ' ORDER BY inhrelid::regclass::text)
FROM pg_inherits
WHERE inhparent = 'outbox'::regclass AND NOT has_table_privilege(inhrelid, $1)
"""

ROLE = """
SELECT quote_ident(current_user)
"""


def command(*, as_json: terminal.Json = False) -> None:
    """Check settings, connections, TLS, privileges in Postgres, topics, clocks and the ring.

    Of the rights in Kafka, those on the event topic are checked. The runbook lists the others, and a
    worker without one of them logs an error. A connection over a network without TLS is a warning, because
    the network may be private.
    """
    try:
        settings = read(os.environ)
    except SettingsError as error:
        mend = "set the variables as the README's table has them"
        report = Report(
            [Check("settings", passed=False, found="; ".join(str(error).splitlines()), mend=mend)]
        )
        terminal.show(report, _print, as_json=as_json)
        raise typer.Exit(terminal.USAGE) from error
    report = terminal.carry_out(examine(settings))
    terminal.show(report, _print, as_json=as_json)
    if not report.passed:
        raise typer.Exit(terminal.FAILED)


async def examine(settings: Settings) -> Report:
    """Run all checks that are possible."""
    checks = [Check("settings", passed=True, found=f"topic {settings.topic}, {settings.delivery}")]
    registration = None
    try:
        url = settings.session_database_url
        async with session(url, "doctor", timeout_s=TIMEOUT_S) as connection:
            checks += await _database(connection, settings)
            with contextlib.suppress(asyncpg.PostgresError):  # as one of the checks has found
                registration = await registered(connection)
    except (*ERRORS, UnusableUrlError) as error:
        mend = "check DATABASE_URL and that the server listens"
        checks.append(Check("database", passed=False, found=reason(error), mend=mend))
    return Report([*checks, *await kafka_checks.examine(settings, registration)])


async def _database(connection: asyncpg.Connection, settings: Settings) -> list[Check]:
    direct = await _guarded("session", _session(connection, settings))
    checks = [Check("database", passed=True, found="connected"), check_session(connection), direct]
    if direct.passed:  # behind a pooler, the other checks might use another session
        checks += [
            await _guarded(check.__name__.strip("_"), check(connection))
            for check in (_schema, _primary, _privileges, _durability, _clock, _relay, _pause)
        ]
        checks.append(await _guarded("compression", _compression(connection, settings)))
        checks.append(await _guarded("ring", _ring(connection, settings)))
    return checks


async def _guarded(name: str, check: Awaitable[Check]) -> Check:
    """Return the check's result, or a failed check if it raises an error."""
    try:
        return await check
    except (*ERRORS, KafkaError, RefusedError) as error:
        return Check(name, passed=False, found=reason(error), mend="see the lines above")


async def _schema(connection: asyncpg.Connection) -> Check:
    try:
        await check_schema(connection)
    except (RefusedError, asyncpg.UndefinedTableError) as error:
        mend = "python -m service migrate"
        return Check("schema", passed=False, found=reason(error), mend=mend)
    return Check("schema", passed=True, found="as this worker knows it")


async def _primary(connection: asyncpg.Connection) -> Check:
    if await connection.fetchval("SELECT pg_is_in_recovery()"):
        mend = "point DATABASE_URL at the primary"
        return Check("primary", passed=False, found="a standby", mend=mend)
    if is_read_only(connection):
        mend = "search default_transaction_read_only in the role, the database and the server"
        return Check("primary", passed=False, found="read-only by default", mend=mend)
    return Check("primary", passed=True, found="yes")


async def _session(connection: asyncpg.Connection, settings: Settings) -> Check:
    lent = await pooled(connection, settings.session_database_url)
    return Check(
        "session", not lent, POOLED if lent else "sessions are the server's own", POOLED_MEND
    )


async def _privileges(connection: asyncpg.Connection) -> Check:
    role = await connection.fetchval(ROLE)
    missing = [
        f"GRANT {privilege} ON {table} TO {role};"
        for table, privileges in PRIVILEGES.items()
        for privilege in privileges.split(", ")
        if await has_privilege(connection, table, privilege) is False
    ]
    missing += [
        f"GRANT {privilege} ON {slots} TO {role};"
        for privilege in SLOT_PRIVILEGES
        if (slots := await connection.fetchval(SLOTS_WITHOUT, privilege))
    ]
    found = f"{len(missing)} missing" if missing else "all there"
    return Check("privileges", not missing, found, " ".join(missing))


async def _durability(connection: asyncpg.Connection) -> Check:
    fsync = await connection.fetchval("SHOW fsync")
    mend = "ALTER SYSTEM SET fsync = on; SELECT pg_reload_conf();"
    return Check("durability", fsync == "on", f"fsync = {fsync}", mend)


async def _clock(connection: asyncpg.Connection) -> Check:
    skew = abs((await connection.fetchval("SELECT clock_timestamp()")).timestamp() - time.time())
    return Check("clock", skew < SKEW_S, f"{skew:.1f} s apart", "synchronise the clocks (NTP)")


async def _relay(connection: asyncpg.Connection) -> Check:
    registration, cluster = await registered(connection), await read_cluster_identity(connection)
    undetected = "".join(f"; not detected here: {what}" for what in cluster.undetected())
    if registration is None:
        return Check("relay", passed=True, found=f"never started{undetected}")
    try:
        registration.check(cluster)
    except RefusedError as error:
        return Check("relay", passed=False, found=str(error), mend="python -m outbox_worker rebase")
    return Check("relay", passed=True, found=f"{registration.name}{undetected}")


async def _pause(connection: asyncpg.Connection) -> Check:
    """Tell whether the relay is paused, which is no fault."""
    if not await pause.is_readable(connection):
        found = "unknown: schema or rights are older"
    elif (paused := await pause.read(connection)) is None:
        found = "none"
    else:
        since = terminal.utc(paused.since)
        found = f"since {since} by {paused.by}; python -m outbox_worker resume"
    return Check("pause", passed=True, found=found)


async def _compression(connection: asyncpg.Connection, settings: Settings) -> Check:
    """Tell which codec is in force and why, which is no fault."""
    codec, why = settings.compression_of(await registered(connection))
    return Check("compression", passed=True, found=f"{codec} ({why})")


async def _ring(connection: asyncpg.Connection, settings: Settings) -> Check:
    oldest = 0.0
    for slot in range(SLOTS):
        first = await first_created_at(connection, table_of(slot))
        oldest = max(oldest, 0.0 if first is None else (time.time() - first.timestamp()) / DAY_S)
    fine = oldest <= settings.retention_days + DAYS_OF_GRACE
    mend = "start the worker: it clears what is published; python -m outbox_worker status"
    return Check("ring", fine, f"oldest row {oldest:.1f} days", mend)


def _print(report: Report) -> None:
    for check in report.checks:
        mark = "[green]pass[/]" if check.passed else "[red]fail[/]"
        mark = "[yellow]warn[/]" if check.warning else mark
        terminal.say(f"{mark} {check.name}: {check.found}")
        if check.warning or not check.passed:
            terminal.say(f"     mend: {check.mend}")
