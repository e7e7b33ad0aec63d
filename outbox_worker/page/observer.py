"""Makes the document of /status.json from what this process knows, and what Postgres and Kafka tell."""

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from typing import Any, Final

import msgspec
from aiokafka.errors import UnknownTopicOrPartitionError
from prometheus_client import Counter, Gauge

from outbox_worker.incident import Incident
from outbox_worker.kafka import administration
from outbox_worker.logs import get_logger
from outbox_worker.operator import doctor
from outbox_worker.operator.checks import Check
from outbox_worker.operator.state import (
    Status,
    System,
    TopicStatus,
    add_database,
    partitions,
    with_states,
)
from outbox_worker.page.changes import Change, Changes
from outbox_worker.page.history import EVERY_S, Columns, Figures, History
from outbox_worker.page.watched import Read, Watched
from outbox_worker.postgres.progress import Progress
from outbox_worker.postgres.sessions import session
from outbox_worker.postgres.window import PLANNER_SETTINGS
from outbox_worker.relay.health import Health, State
from outbox_worker.relay.metrics import AGE_SECONDS, Metrics
from outbox_worker.relay.process import Relay
from outbox_worker.release import VERSION
from outbox_worker.settings import Settings

log = get_logger(__name__)

DATABASE_EVERY_S: Final = 5
TOPIC_EVERY_S: Final = 15
READ_TIMEOUT_S: Final = 5
ENCODED_FOR_S: Final = 1.0
"""The time for which an encoded document is sent again: many viewers cost no more than one."""
END_S: Final = 1
"""The longest wait for the end of the background tasks: aiokafka may swallow a cancellation."""
RETRY_S: Final = 5
"""The pause after an unexpected error of a part of the page."""
EXAMINE_AFTER_S: Final = 10
"""The pause between the start and `doctor`, which must neither delay the take-over nor find its topics
half made."""


class Doctor(msgspec.Struct):
    """What `doctor` found, and when."""

    at: float
    passed: bool
    checks: list[Check]


class ProcessStatus(msgspec.Struct):
    """What only this process knows. `now` is the time at which the document was made."""

    now: float
    version: str
    started_at: float
    state: State
    state_since: float
    problem: str | None
    detail: str
    problem_since: float | None
    healthy: bool
    ready: bool
    doctor: Doctor | None
    changes: list[Change]
    history: Columns


class Observer:
    """Makes the document. `observing` collects in the background what it needs."""

    def __init__(self, settings: Settings, relay: Relay, health: Health, metrics: Metrics) -> None:
        self._settings = settings
        self._relay = relay
        self._health = health
        self._metrics = metrics
        self._changes = Changes()
        self._history = History(self._figures, AGE_SECONDS)
        self._started_at = time.time()
        self._database = Watched(self._open_session, DATABASE_EVERY_S)
        self._topic = Watched(self._open_administration, TOPIC_EVERY_S)
        self._doctor: Doctor | None = None
        self._encoded = b""
        self._encoded_at = 0.0

    @asynccontextmanager
    async def observing(self) -> AsyncIterator[None]:
        """Observe in the background until the context ends."""
        logger = logging.getLogger(__name__.partition(".")[0])
        logger.addHandler(self._changes)
        task = asyncio.create_task(self._run())
        try:
            yield
        finally:
            task.cancel()
            await asyncio.wait([task], timeout=END_S)
            logger.removeHandler(self._changes)

    async def document(self) -> bytes:
        """Return the document, encoded, after a short wait if it is the first request for some time."""
        await asyncio.gather(self._database.refresh(), self._topic.refresh())
        now = time.monotonic()
        if now - self._encoded_at > ENCODED_FOR_S:
            self._encoded, self._encoded_at = msgspec.json.encode(self.status()), now
        return self._encoded

    def status(self) -> Status:
        """Return the document."""
        published = self._relay.published()
        known = self._relay.lag.known()
        read = self._database.value or Status(self._settings.delivery)
        return msgspec.structs.replace(
            read,
            problems=self._problems(),
            slots=read.slots and with_states(read.slots, known.days if known else ()),
            topic=self._topic_with_offsets(published),
            lag_events=known and known.events,
            lag_seconds=known and round(known.oldest_s, 3),
            last_batch_age_s=self._last_batch_age_s(),
            published=published and published.events,
            published_at=published and time.time(),
            rate=self._history.rate(),
            worker=msgspec.Raw(msgspec.json.encode(self._process(), enc_hook=str)),
        )

    def _last_batch_age_s(self) -> float | None:
        """Return the time since this process has published a batch; None: it has published none."""
        at = _value(self._metrics.last_publish)
        return round(time.time() - at, 1) if at else None

    def _problems(self) -> dict[System, str]:
        found: dict[System, str | None] = {
            "postgres": self._database.problem,
            "kafka": self._topic.problem,
        }
        return {system: problem for system, problem in found.items() if problem}

    def _topic_with_offsets(self, published: Progress | None) -> TopicStatus | None:
        """Return the topic as read, with the highest offsets that a term knows."""
        topic = self._topic.value
        if topic is None or published is None:
            return topic
        details = [
            msgspec.structs.replace(each, offset=published.offsets.get(each.number))
            for each in topic.details
        ]
        return msgspec.structs.replace(topic, details=details)

    def _process(self) -> ProcessStatus:
        health = self._health
        problem = health.problem or health.obstacle
        return ProcessStatus(
            now=time.time(),
            version=VERSION,
            started_at=self._started_at,
            state=health.state,
            state_since=health.state_since,
            problem=problem,
            detail=health.detail if problem else "",
            problem_since=health.problem_since if problem else None,
            healthy=health.healthy,
            ready=health.ready,
            doctor=self._doctor,
            changes=self._changes.newest_first(),
            history=self._history.columns(),
        )

    def _figures(self) -> Figures:
        known = self._relay.lag.known()
        published = _value(self._metrics.published)
        (ages,) = self._metrics.event_age.collect()
        buckets = [each.value for each in ages.samples if each.name.endswith("_bucket")]
        return Figures(
            time.time(), published, known and known.events, known and known.oldest_s, buckets
        )

    async def _run(self) -> None:
        work = (self._database.run, self._topic.run, self._examine, self._sample)
        await asyncio.gather(*map(_supervised, work))

    async def _sample(self) -> None:
        while True:
            await asyncio.sleep(EVERY_S)
            self._history.sample()

    async def _examine(self) -> None:
        await asyncio.sleep(EXAMINE_AFTER_S)
        report = await doctor.examine(self._settings)
        self._doctor = Doctor(time.time(), report.passed, report.checks)

    @asynccontextmanager
    async def _open_session(self) -> AsyncIterator[Read[Status]]:
        url = self._settings.session_database_url
        async with session(url, "page", timeout_s=READ_TIMEOUT_S, **PLANNER_SETTINGS) as connection:

            async def read() -> Status:
                status = Status(self._settings.delivery)
                await add_database(status, connection, self._settings)
                return status

            yield read

    @asynccontextmanager
    async def _open_administration(self) -> AsyncIterator[Read[TopicStatus]]:
        yield self._read_topic

    async def _read_topic(self) -> TopicStatus:
        async with administration.connect(self._settings.kafka_client()) as admin:
            (topic,) = await admin.describe([self._settings.topic])
            if not topic.exists and topic.error is not UnknownTopicOrPartitionError:
                raise topic.error(topic.name)
            return TopicStatus(
                topic.name,
                topic.exists,
                await admin.brokers(),
                partitions=len(topic.partitions),
                events_end=None,
                details=partitions(topic),
            )


async def _supervised(work: Callable[[], Coroutine[Any, Any, None]]) -> None:
    """Do a part of the work, and begin it again after an unexpected error.

    The error ends neither the other parts nor the relay. Each class of errors is logged once.
    """
    incident = Incident()
    while True:
        try:
            return await work()
        except Exception as error:
            if incident.fail(type(error).__name__):
                log.exception("page.failed")
            await asyncio.sleep(RETRY_S)


def _value(metric: Counter | Gauge) -> float:
    """Return the value of a metric without labels."""
    (family,) = metric.collect()
    return family.samples[0].value
