"""`snapshot`: one event for each active link, as of one moment, for a new subscriber."""

from datetime import UTC, datetime
from typing import Annotated
from uuid import UUID, uuid5

import asyncpg
import msgspec
import typer

from outbox_worker import reading, terminal, topics
from outbox_worker.courier import Courier
from outbox_worker.registration import RefusedError, Registration, registered
from outbox_worker.sessions import connect, disconnect
from outbox_worker.settings import Settings

MARK = "snapshot"
PAGE_ROWS = 2_000
TIMEOUT_S = 3_600
TYPE = "document.linked"
# A link's event has the same id in every snapshot at the same version of its document.
NAMESPACE = UUID("6ba9b1f5-6b0f-4d6d-9a0c-5b1f6c1f7a52")

COUNT = """
SELECT count(*)
FROM document_links
WHERE deleted_at IS NULL
"""

LINKS = """
SELECT l.workspace_id::text AS workspace, l.document_id AS document, d.version, l.id::text AS link,
    l.entity_type, l.entity_id, l.role,
    to_char(l.created_at AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.US"Z"') AS created_at
FROM document_links AS l
JOIN documents AS d ON d.workspace_id = l.workspace_id AND d.id = l.document_id
WHERE l.deleted_at IS NULL
ORDER BY l.workspace_id, l.document_id, l.id
"""


class Report(msgspec.Struct):
    """What was published, and where the live topic goes on for whoever has read it all.

    From those offsets on, skip events whose document_version is not above the one that the
    snapshot gave the document.
    """

    topic: str
    links: int
    continue_from: dict[int, int]


def command(
    *,
    topic: Annotated[str | None, typer.Option(help="By default <topic>.snapshot.")] = None,
    yes: terminal.Yes = False,
    as_json: terminal.Json = False,
) -> None:
    """Publish every active link once, as of now; header `snapshot: true`."""
    settings = terminal.settings()
    target = topic or f"{settings.topic}.snapshot"
    if target == settings.topic:
        terminal.confirmed(f"Fill {target}, the event topic itself?", yes=yes)
    report = terminal.carry_out(snapshot(settings, target, shown=not as_json))
    terminal.show(report, _print, as_json=as_json)


async def snapshot(settings: Settings, topic: str, *, shown: bool = False) -> Report:
    """Publish the links of one database snapshot, page by page."""
    connection = await connect(settings.session_database_url, "snapshot", timeout_s=TIMEOUT_S)
    try:
        registration = await registered(connection)
        if registration is None:
            message = "this outbox has never been relayed: start the worker first"
            raise RefusedError(message)
        # Offsets first: whatever came before them is in the snapshot that is taken after.
        offsets = await _offsets(settings, registration)
        async with (
            await Courier.to(settings, topic, MARK, registration) as courier,
            connection.transaction(isolation="repeatable_read", readonly=True),
        ):
            total = await connection.fetchval(COUNT)
            with terminal.progress_bar("snapshot", total, shown=shown) as step:
                links = await _send(connection, courier, step)
        return Report(topic, links, offsets)
    finally:
        await disconnect(connection)


async def _offsets(settings: Settings, registration: Registration) -> dict[int, int]:
    async with topics.administration(settings.kafka_client()) as admin:
        if not await admin.exists(settings.topic):
            return {}
        partitions = min(registration.partitions, await admin.partitions(settings.topic))
    return await reading.end_offsets(settings.kafka_client(), settings.topic, partitions)


async def _send(connection: asyncpg.Connection, courier: Courier, step: terminal.Step) -> int:
    moment = datetime.now(UTC).isoformat(timespec="microseconds").replace("+00:00", "Z")
    sent = 0
    cursor = await connection.cursor(LINKS)
    while rows := await cursor.fetch(PAGE_ROWS):
        await courier.send([_event(row, moment) for row in rows])
        sent += len(rows)
        step(len(rows))
    return sent


def _event(row: asyncpg.Record, moment: str) -> tuple[int, str, bytes, None]:
    """Return the row that the relay would find if the link had been made just now."""
    workspace, document, version, link, entity_type, entity_id, role, created_at = row
    key = f"{workspace}/{document}"
    event = {
        "specversion": "1.0",
        "id": str(uuid5(NAMESPACE, f"{link}/{version}")),
        "source": f"/workspaces/{workspace}",
        "type": TYPE,
        "subject": document,
        "time": moment,
        "datacontenttype": "application/json",
        "dataschema": f"urn:document-links:{TYPE}:1",
        "partitionkey": key,
        "sequence": f"{version:020}",
        "data": {
            "workspace_id": workspace,
            "document_id": document,
            "document_version": version,
            "link": {
                "id": link,
                "resource": {"id": entity_id, "type": entity_type},
                "role": role,
                "created_at": created_at,
                "deleted_at": None,
            },
            "previous": None,
            "cause": "link",
            "actor": MARK,
            "request_id": MARK,
        },
    }
    return 0, key, msgspec.json.encode(event), None


def _print(report: Report) -> None:
    terminal.say(f"{report.links} active links published to {report.topic}")
    places = " ".join(f"{partition}:{offset}" for partition, offset in report.continue_from.items())
    terminal.say(f"the live topic goes on at (partition:offset) {places or 'its beginning'}")
