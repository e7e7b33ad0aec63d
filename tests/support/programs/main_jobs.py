"""The main work of both programs in this process: calls of each kind, and the relay of their events.

Each job returns a transcript without ids and times, so that transcripts of two runs can be compared.
"""

import asyncio
import re
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import NamedTuple
from uuid import uuid4

import asyncpg

from deploy.local.postgres import Postgres
from outbox_worker.operator import doctor, status
from outbox_worker.relay.health import Health
from outbox_worker.relay.metrics import Metrics
from outbox_worker.relay.process import Relay
from outbox_worker.settings import Settings, read
from tests.support.parts.shared import TEMPLATE, execute
from tests.support.relay import outbox
from tests.support.service.api import Api, Service, new_key, seed
from tests.support.topic import topics

VARIABLE = re.compile(
    r"dlnk_[0-9a-z]{26}|[0-9a-f]{8}-[0-9a-f-]{27}|req_[0-9A-Z]{26}|key_\w{12}"
    r"|\d{4}-\d\d-\d\dT[\d:.]+Z?|\b1[789]\d{8}\b"
)
"""Ids made by the service, and times in ISO 8601 or in seconds since 1970."""
EVENTS = 7
PAGE = 3

DOCUMENT = {"display_name": "Größe", "metadata": {"n": 1e100, "a": [1, None, {"b": "c\\d'e"}]}}
DEAL = {"entity_type": "deal", "entity_id": "deal_1", "role": "signed"}
BATCH = [
    {"op": "link", "document_id": "doc_1", "resource_id": "ship_3"},
    {"op": "unlink", "document_id": "doc_1", "resource_id": "ship_9"},
]
CALLS: tuple[tuple[str, str, object], ...] = (
    ("GET", "/readyz", None),
    ("PUT", "/v1/documents/doc_1", DOCUMENT | {"resources": ["ship_1"]}),
    ("PUT", "/v1/documents/new", DOCUMENT),
    ("PUT", "/v1/documents/new", DOCUMENT),
    ("PUT", "/v1/entities/deal/deal_new", None),
    ("POST", "/v1/documents/doc_1/link", DEAL),
    ("POST", "/v1/documents/doc_1/link", DEAL),
    ("POST", "/v1/documents/doc_1/links", {"resource_id": "item_1"}),
    ("POST", "/v1/links/batch", {"operations": BATCH}),
    ("DELETE", "/v1/documents/doc_1/links?resource_id=item_1", None),
    ("POST", "/v1/documents/doc_1/links", {"resource_id": "item_1"}),
    ("GET", "/v1/documents/doc_1/links?limit=2", None),
    ("GET", "/v1/documents?resource_id=ship_1", None),
    ("GET", "/v1/entities/deal/deal_1/documents?role=signed", None),
    ("DELETE", "/v1/documents/doc_1", None),
    ("POST", "/v1/documents/doc_1/restore", None),
    ("GET", "/v1/documents/doc_1", None),
    ("DELETE", "/v1/entities/shipment/ship_1", None),
    ("POST", "/v1/documents/doc_1/links", {"resource_id": "ship_1"}),
    ("GET", "/v1/documents/doc_1", None),
)


RIGHTS = (
    "GRANT ALL ON ALL TABLES IN SCHEMA public TO {role}",
    "GRANT ALL ON ALL SEQUENCES IN SCHEMA public TO {role}",
)


class Ground(NamedTuple):
    """A database, the ordinary role of the programs, a connection of the owner, and an API key."""

    url: str
    role: str
    owner: asyncpg.Connection
    key: str


@asynccontextmanager
async def ground(postgres: Postgres, settings: Mapping[str, str]) -> AsyncIterator[Ground]:
    """Yield a new database with documents and entities; the role has these settings."""
    name = f"test_{uuid4().hex}"
    database, role = postgres.dsn(name), f"role_{name}"
    await execute(
        postgres.dsn(), f"CREATE DATABASE {name} TEMPLATE {TEMPLATE}", f"CREATE ROLE {role} LOGIN"
    )
    await execute(database, *(right.format(role=role) for right in RIGHTS))
    key = await new_key(database)
    owner = await asyncpg.connect(database)
    try:
        await seed(owner, 2, 9)
        await owner.execute("LOAD 'plpgsql'")
        for setting, value in settings.items():
            await owner.execute(f"ALTER ROLE {role} SET {setting} = {_quoted(setting, value)}")
        yield Ground(database.replace("postgres@", f"{role}@"), role, owner, key)
    finally:
        await owner.close()
        await execute(postgres.dsn(), f"DROP DATABASE {name} WITH (FORCE)", f"DROP ROLE {role}")


def _quoted(setting: str, value: str) -> str:
    return value if setting == "DateStyle" else f"'{value}'"  # a list must not be quoted as a whole


async def both(on: Ground, kafka: str) -> list[str]:
    """Run both jobs; return their transcripts."""
    topic = f"test-{on.role}"
    transcript = await serve(on.url, on.key) + await relay(on.url, kafka, topic, on.owner)
    async with topics.administration(kafka) as admin:
        await admin.delete_topics([t for t in await admin.list_topics() if t.startswith(topic)])
    return transcript


async def serve(database: str, key: str) -> list[str]:
    """Make calls of each kind, and each write twice with an Idempotency-Key.

    The database has two documents and nine entities of each type, made by `seed`.
    """
    async with Service(database) as service:
        api = await service.api(key)
        return [await _call(api, *call, number) for number, call in enumerate(CALLS)]


async def _call(api: Api, method: str, path: str, body: object, number: int) -> str:
    answers = []
    for _ in range(1 if method == "GET" else 2):
        answer = await api.client.request(
            method, path, json=body, headers={"Idempotency-Key": f"key-{number}"}
        )
        answers.append(f"{answer.status_code} {answer.headers.get('etag')} {answer.text}")
    return VARIABLE.sub("…", f"{method} {path}: {' | '.join(answers)}")


async def relay(database: str, kafka: str, topic: str, writer: asyncpg.Connection) -> list[str]:
    """Publish the events before the start and later ones; run `status` and `doctor`."""
    settings = read(
        {
            "DATABASE_URL": database,
            "KAFKA_BOOTSTRAP_SERVERS": kafka,
            "OUTBOX_TOPIC": topic,
            "OUTBOX_PARTITIONS": "1",
            "OUTBOX_BATCH_SIZE": str(PAGE),
        }
    )
    await outbox.insert_events(writer, EVENTS)
    before = await writer.fetchval("SELECT count(*) FROM outbox")
    async with _leading(settings) as metrics:
        await topics.wait_for_count(kafka, topic, before)
        await outbox.insert_events(writer, EVENTS)
        records = await topics.wait_for_count(kafka, topic, before + EVENTS)
        values = [VARIABLE.sub("…", record.value.decode()) for record in records]
        shown = await status.collect(settings)
        report = await doctor.examine(settings)
        errors = [sample.labels for each in metrics.errors.collect() for sample in each.samples]
        checkpoints = await writer.fetchval("SELECT count(*) > 0 FROM outbox_checkpoints")
    return [
        f"published {values}, checkpoints {checkpoints}, errors {errors}",
        f"status: {shown.problems}, {shown.lag_events} due, {shown.leader is not None}",
        f"doctor: {[check.name for check in report.checks if not check.passed]}",
    ]


@asynccontextmanager
async def _leading(settings: Settings) -> AsyncIterator[Metrics]:
    """Run a worker without its HTTP pages until the context ends."""
    stop, health, metrics = asyncio.Event(), Health(), Metrics()
    running = asyncio.create_task(Relay(settings, stop, health, metrics).run())
    try:
        yield metrics
    finally:
        stop.set()
        await running
