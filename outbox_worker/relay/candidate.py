"""Whether a standby could lead: every few seconds it asks Kafka for the topics that a leader needs.

A standby that could not lead must not be ready. Otherwise a rolling update with broken settings
succeeds, and fails only when one of the standbys has to lead. The checks run in a task beside the
polling of the lock, so that a slow Kafka does not delay a takeover.

Metadata shows the address, TLS, the password, leaders and rights on topics. It shows neither rights
on the transactional id nor whether the topics may be made.
"""

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager

from aiokafka.errors import KafkaError, UnknownTopicOrPartitionError

from outbox_worker.kafka import metadata
from outbox_worker.kafka.guard import WHAT_TO_DO
from outbox_worker.kafka.topics import TopicLostError, Topics
from outbox_worker.logs import first_line
from outbox_worker.postgres.registration import Registration
from outbox_worker.postgres.sessions import ERRORS
from outbox_worker.relay.health import Health
from outbox_worker.relay.ledger import Checkpoints, Session
from outbox_worker.settings import Settings

CHECK_EVERY_S = 3
# After a failure. One check that fails, this pause and one check that succeeds take less than 10 s,
# the time within which a standby is ready again.
RETRY_S = 1
# For connecting and for each check: a silent bootstrap server costs 4 s, its explanation 1 s.
CHECK_TIMEOUT_S = 6


class Candidate:
    """A standby's view of Kafka; `checked` is true once the first check has ended, well or not."""

    def __init__(
        self, settings: Settings, registration: Registration, session: Session, health: Health
    ) -> None:
        self._settings = settings
        self._registration = registration
        self._session = session
        self._health = health
        self._standing_by = asyncio.Event()
        self.checked = False

    def stand_by(self) -> None:
        """Begin to check: another process holds the lock. Further calls change nothing."""
        self._standing_by.set()

    async def run(self) -> None:
        """Check from the first call of stand_by on, until cancelled."""
        await self._standing_by.wait()
        task = asyncio.current_task()
        while not (task and task.cancelling()):  # aiokafka's close() may swallow a cancellation
            try:
                await self._check_repeatedly()
            except (*ERRORS, KafkaError, TopicLostError) as error:
                self._health.cannot_lead(type(error).__name__, detail=first_line(error))
                self.checked = True
            await asyncio.sleep(RETRY_S)

    async def _check_repeatedly(self) -> None:
        """Check over one connection; raise the error of the first check that fails."""
        async with AsyncExitStack() as stack:
            async with _time_limit():
                kafka = Topics(self._settings.kafka_client())
                await stack.enter_async_context(kafka)
            while True:
                async with _time_limit():
                    await self._check(kafka)
                self._health.can_lead()
                self.checked = True
                await asyncio.sleep(CHECK_EVERY_S)

    async def _check(self, kafka: Topics) -> None:
        event_topic = self._settings.topic
        progress_topic = self._registration.progress_topic(event_topic)
        for topic in await kafka.look([event_topic, progress_topic]):
            if topic.error is not UnknownTopicOrPartitionError:
                metadata.check_usable(topic)
            elif topic.name == event_topic and await self._has_published():
                message = f"topic {event_topic} is gone; {WHAT_TO_DO}"
                raise TopicLostError(message)

    async def _has_published(self) -> bool:
        """Whether a relay of this outbox has published events; if not, it makes the topics."""
        checkpoints = await Checkpoints.of(self._session, self._registration.name)
        newest = await checkpoints.newest()
        return newest is not None and bool(newest.offsets or newest.events)


@asynccontextmanager
async def _time_limit() -> AsyncIterator[None]:
    try:
        async with asyncio.timeout(CHECK_TIMEOUT_S):
            yield
    except TimeoutError as error:
        message = f"Kafka did not answer within {CHECK_TIMEOUT_S} s; look at the brokers"
        raise TimeoutError(message) from error
