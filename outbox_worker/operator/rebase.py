"""`rebase`: gives a restored, upgraded or copied database a relay of its own.

The xids in a copied outbox are those of another cluster. So one transaction gives its own xid to the rows
that the old cursor does not cover and, for safety, to the rows of the 15 minutes before the cursor. The
other rows get the frozen xid, 2. The transaction also writes a checkpoint whose cursor lies before its xid.
"""

import secrets
from contextlib import AsyncExitStack
from typing import Any

import asyncpg
import msgspec

from outbox_worker.operator import terminal
from outbox_worker.operator.published import last_progress
from outbox_worker.postgres import checkpoints
from outbox_worker.postgres.cursor import COVERED, Snapshot
from outbox_worker.postgres.progress import Progress
from outbox_worker.postgres.registration import (
    ClusterIdentity,
    RefusedError,
    Registration,
    check_schema,
    read_cluster_identity,
    required,
)
from outbox_worker.postgres.sessions import session
from outbox_worker.postgres.task_progress import Recorder
from outbox_worker.relay.leader import TRY_LOCK
from outbox_worker.relay.retention import SLOTS
from outbox_worker.settings import Settings

SAFETY_S = 900
QUIET_S = 10

# Writers wait until the end of the transaction, readers do not. NOWAIT: fails if a transaction is writing.
LOCK_OUTBOX = """
LOCK TABLE outbox IN SHARE ROW EXCLUSIVE MODE NOWAIT
"""

WRITTEN_LATELY = """
SELECT EXISTS (SELECT FROM outbox WHERE created_at > clock_timestamp() - make_interval(secs => $1))
"""

# The rows that the old cursor covers and that are older than $7, the time of the cursor less SAFETY_S.
SAFE = f"created_at < to_timestamp($7) AND ({COVERED})"

COUNT = f"""
SELECT count(*) FILTER (WHERE NOT ({SAFE})) AS again, count(*) AS all
FROM outbox
"""  # noqa: S608 - made of constants

# $8 the slot: one statement for each, so that the progress bar can advance.
STAMP = f"""
UPDATE outbox
SET xid = CASE WHEN {SAFE} THEN '2'::xid8 ELSE pg_current_xact_id() END
WHERE slot = $8::smallint
"""  # noqa: S608 - made of constants

RENAME = """
UPDATE outbox_relay
SET name = $1, system_identifier = $2, database_oid = $3::bigint::oid
"""

CURRENT_XID = """
SELECT pg_current_xact_id()
"""


class Report(msgspec.Struct):
    """The relays' names and the numbers of events; `new_relay` None: nothing was changed yet."""

    old_relay: str
    new_relay: str | None
    events: int
    events_to_publish: int


def command(*, yes: terminal.Yes = False, as_json: terminal.Json = False) -> None:
    """Give the relay a new identity, on a restored, upgraded or copied database."""
    settings = terminal.settings()
    report = terminal.carry_out(rebase(settings, dry_run=True))
    terminal.confirmed(
        f"Relay {report.old_relay} belongs to another database. If that database still runs, stop here. "
        f"This database gets a relay of its own, which publishes {report.events_to_publish} of "
        f"{report.events} events. Go on?",
        yes=yes,
    )
    report = terminal.carry_out(rebase(settings, dry_run=False, shown=not as_json))
    terminal.show(report, _print, as_json=as_json)


async def rebase(settings: Settings, *, dry_run: bool, shown: bool = False) -> Report:
    """Rebase, or only report what would be done; RefusedError while another session writes or leads."""
    # Every row is rewritten, so the statements have no time limit.
    async with session(settings.session_database_url, "rebase", timeout_s=None) as connection:
        await check_schema(connection)
        cluster = await read_cluster_identity(connection)
        registration = await _foreign(connection, cluster)
        old = await last_progress(settings, connection, registration)
        async with AsyncExitStack() as stack, connection.transaction():
            await _lock(connection, registration)
            report = await _count(connection, registration, old)
            if not dry_run:
                recorder = Recorder(
                    settings.session_database_url,
                    "rebase",
                    {"relay": registration.name},
                    report.events,
                )
                await stack.enter_async_context(recorder)  # ends after the COMMIT
                with terminal.progress_bar("rebase", report.events, shown=shown) as step:
                    await _stamp(connection, old, step, recorder)
                await _rename(connection, cluster, old, report)
        return report


async def _foreign(connection: asyncpg.Connection, cluster: ClusterIdentity) -> Registration:
    registration = await required(connection)
    try:
        registration.check(cluster)
    except RefusedError:
        return registration
    message = "the relay is this database's own: there is nothing to rebase"
    raise RefusedError(message)


async def _lock(connection: asyncpg.Connection, registration: Registration) -> None:
    """Take the leader's lock and lock the outbox; RefusedError while a worker or a writer runs."""
    if not await connection.fetchval(TRY_LOCK, registration.name):
        message = "a worker leads on this database: stop it first"
        raise RefusedError(message)
    try:
        await connection.execute(LOCK_OUTBOX)
    except asyncpg.LockNotAvailableError:
        message = "a transaction is writing to the outbox: stop the service first"
        raise RefusedError(message) from None
    if await connection.fetchval(WRITTEN_LATELY, QUIET_S):
        message = f"events were written in the last {QUIET_S} s: stop the service first"
        raise RefusedError(message)


async def _count(
    connection: asyncpg.Connection, registration: Registration, old: Progress
) -> Report:
    (counts,) = await connection.fetch(COUNT, *_arguments(old))
    return Report(registration.name, None, counts["all"], counts["again"])


async def _stamp(
    connection: asyncpg.Connection, old: Progress, step: terminal.Step, recorder: Recorder
) -> None:
    for slot in range(SLOTS):
        tag = await connection.execute(STAMP, *_arguments(old), slot)
        done = int(tag.removeprefix("UPDATE "))
        step(done)
        recorder.events += done


async def _rename(
    connection: asyncpg.Connection, cluster: ClusterIdentity, old: Progress, report: Report
) -> None:
    """Give the relay a new name, and a checkpoint from just before this transaction."""
    report.new_relay = secrets.token_hex(8)
    await connection.execute(
        RENAME, report.new_relay, cluster.system_identifier, cluster.database_oid
    )
    xid = await connection.fetchval(CURRENT_XID)
    progress = _own(old, cluster, Snapshot(xid, xid), report.events - report.events_to_publish)
    await checkpoints.write(connection, report.new_relay, cluster, progress)


def _arguments(old: Progress) -> tuple[Any, ...]:
    return *old.cursor.covered(), old.at - SAFETY_S


def _own(old: Progress, cluster: ClusterIdentity, before: Snapshot, events: int) -> Progress:
    """Return the new relay's first checkpoint. It has the topic's id and offsets: the topic is the same."""
    return Progress(
        system_identifier=cluster.system_identifier,
        database_oid=cluster.database_oid,
        timeline=cluster.timeline,
        checkpoint=secrets.token_hex(8),
        s0=str(before),
        s1=None,
        after=(0, 0),
        offsets=old.offsets,
        events=events,
        at=old.at,
        topic_id=old.topic_id,
    )


def _print(report: Report) -> None:
    terminal.say(
        f"relay {report.new_relay} replaces {report.old_relay}; it publishes "
        f"{report.events_to_publish} of {report.events} events"
    )
