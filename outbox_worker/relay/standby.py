"""Whether a standby could lead: every few seconds it asks Kafka for the topics that a leader needs.

A standby that could not lead must not be ready. Otherwise a rolling update with wrong settings
succeeds, and the worker fails only when a standby has to lead. The checks run in a task beside the
polling of the lock, so that a slow Kafka does not delay a take-over.

A request for the metadata of topics tests the brokers' address, TLS, the password, partition leaders
and the rights on topics. It does not test the rights on the transactional id, nor the right to make
topics.
"""

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager

from aiokafka.errors import KafkaError, UnknownTopicOrPartitionError

from outbox_worker.kafka import metadata
from outbox_worker.kafka.administration import Administration
from outbox_worker.kafka.guard import TopicLostError
from outbox_worker.logs import first_line
from outbox_worker.postgres import checkpoints
from outbox_worker.postgres.checkpoints import Session
from outbox_worker.postgres.registration import Registration
from outbox_worker.postgres.sessions import ERRORS
from outbox_worker.relay.health import Health
from outbox_worker.settings import Settings

CHECK_EVERY_S = 3
RETRY_S = 1
"""The pause after a failed check. One failed check, this pause and one successful check take less than
10 s, the time within which a standby is ready again."""
CHECK_TIMEOUT_S = 6
"""For connecting, and for each check. A silent bootstrap server takes 4 s, and its explanation 1 s."""


class StandbyChecks:
    """The checks of one standby; `done_once` is true once the first check has ended."""

    def __init__(
        self, settings: Settings, registration: Registration, session: Session, health: Health
    ) -> None:
        self._client = settings.kafka_client()
        self._event_topic = settings.topic
        self._progress_topic = registration.progress_topic(settings.topic)
        self._relay = registration.name
        self._session = session
        self._health = health
        self._standing_by = asyncio.Event()
        self.done_once = False

    def begin(self) -> None:
        """Begin to check: another process holds the lock. Further calls change nothing."""
        self._standing_by.set()

    async def run(self) -> None:
        """Check from the call of begin() on, until cancelled."""
        await self._standing_by.wait()
        task = asyncio.current_task()
        while not (task and task.cancelling()):  # aiokafka's close() may swallow a cancellation
            try:
                await self._check_repeatedly()
            except (*ERRORS, KafkaError, TopicLostError) as error:
                self._health.set_obstacle(type(error).__name__, first_line(error))
                self.done_once = True
            await asyncio.sleep(RETRY_S)

    async def _check_repeatedly(self) -> None:
        """Check over one connection; raise the error of the first check that fails."""
        async with AsyncExitStack() as stack:
            async with _time_limit():
                admin = Administration(self._client)
                await stack.enter_async_context(admin)
            while True:
                async with _time_limit():
                    await self._check(admin)
                self._health.clear_obstacle()
                self.done_once = True
                await asyncio.sleep(CHECK_EVERY_S)

    async def _check(self, admin: Administration) -> None:
        for topic in await admin.describe([self._event_topic, self._progress_topic]):
            if topic.error is not UnknownTopicOrPartitionError:
                metadata.check_usable(topic)
            elif topic.name == self._event_topic and await self._has_published():
                raise TopicLostError.missing(self._event_topic)

    async def _has_published(self) -> bool:
        """Whether a relay of this outbox has published events; if not, the leader makes the topics."""
        async with self._session() as connection:
            newest = await checkpoints.newest(connection, self._relay)
        return newest is not None and bool(newest.offsets or newest.events)


@asynccontextmanager
async def _time_limit() -> AsyncIterator[None]:
    try:
        async with asyncio.timeout(CHECK_TIMEOUT_S):
            yield
    except TimeoutError as error:
        message = f"Kafka did not answer within {CHECK_TIMEOUT_S} s; check the brokers"
        raise TimeoutError(message) from error
