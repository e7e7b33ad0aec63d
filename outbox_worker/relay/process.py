"""One worker: it stands by, takes over, leads, and begins again after an error."""

import asyncio
import time
import traceback
from collections.abc import Callable
from functools import partial

from aiokafka.errors import KafkaError

from outbox_worker.kafka.guard import TopicLostError
from outbox_worker.kafka.publisher import FencedError
from outbox_worker.logs import first_line, get_logger
from outbox_worker.postgres import sessions
from outbox_worker.postgres.checkpoints import Checkpoints, newest_cursor
from outbox_worker.postgres.progress import Progress
from outbox_worker.postgres.registration import Registration
from outbox_worker.relay import takeover
from outbox_worker.relay.health import Health
from outbox_worker.relay.lag import Lag
from outbox_worker.relay.leader import LeaderLock, LeadershipLostError
from outbox_worker.relay.metrics import Metrics
from outbox_worker.relay.on_change import OnChange
from outbox_worker.relay.pausing import Pausing
from outbox_worker.relay.retention import Retention
from outbox_worker.relay.standby import StandbyChecks
from outbox_worker.relay.term import Sizes, Term
from outbox_worker.relay.wakeup import HintsLostError
from outbox_worker.settings import Settings
from outbox_worker.tasks import Backoff, run_with

log = get_logger(__name__)

TRANSIENT = (
    *sessions.ERRORS,
    KafkaError,
    LeadershipLostError,
    FencedError,
    HintsLostError,
    TopicLostError,
)
"""Errors of Postgres, Kafka and the network. The worker retries until they pass or are repaired."""


class Relay:
    """Stands by and leads, again after each error, and holds the state that outlives a term."""

    def __init__(  # noqa: PLR0913 - the last two are given by name
        self,
        settings: Settings,
        stop: asyncio.Event,
        health: Health,
        metrics: Metrics,
        *,
        accept_topic: bool = False,
        make_term: Callable[..., Term] = Term,
    ) -> None:
        self._settings = settings
        self._stop = stop
        self._health = health
        self._metrics = metrics
        metrics.leading.set_function(lambda: float(health.state == "leading"))
        self._accept_topic = accept_topic
        self._make_term = make_term
        self._sizes = Sizes(settings.batch_size)
        self._on_change = OnChange()
        self._pausing = Pausing(health, metrics)
        self._retention = Retention(settings, stop, metrics)
        self.lag = Lag(
            settings.session_database_url, stop, metrics, lambda: self._retention.clearing
        )
        self._term: Term | None = None
        self._former_backend = 0
        self._has_lock = False

    def published(self) -> Progress | None:
        """Return what this process has published, and where; None while it does not lead."""
        return None if self._term is None else self._term.ledger.progress()

    async def run(self) -> None:
        """Lead whenever possible until the stop event; RefusedError if a retry cannot help."""
        await run_with(self._lead_repeatedly(), self.lag.run())

    async def _lead_repeatedly(self) -> None:
        backoff = Backoff(self._stop)
        while not self._stop.is_set():
            began = time.monotonic()
            try:
                await self._stand_by_and_lead()
            except TRANSIENT as error:
                if self._health.progressed_since(began):
                    backoff.reset()
                self._note(error)
                await backoff.wait()

    async def _stand_by_and_lead(self) -> None:
        """Wait for the lock, then lead until the stop event or an error."""
        self._has_lock = False
        lock = await self._open_lock()
        try:
            registration = await takeover.identify(lock.session, self._settings, self._on_change)
            await self._stand_by(lock, registration)
            if not self._stop.is_set():
                self._has_lock = True
                checkpoints = await Checkpoints.of(lock.session, registration.name)
                self.lag.begin(partial(newest_cursor, relay=registration.name), lock.backend)
                async with lock.session() as connection:
                    await self._pausing.begin(connection)
                leading = self._lead(registration, checkpoints)
                await run_with(leading, lock.keep(self._pausing))
        finally:
            self._former_backend = lock.backend
            await lock.close()

    async def _open_lock(self) -> LeaderLock:
        try:
            return await LeaderLock.open(self._settings.session_database_url, self._former_backend)
        except sessions.ERRORS:
            self._forget()  # another worker may have the lock now
            raise

    def _forget(self) -> None:
        """Forget what only the worker with the lock knows."""
        self.lag.forget()
        self._pausing.forget()

    async def _stand_by(self, lock: LeaderLock, registration: Registration) -> None:
        """Return when this worker has the lock, or at the stop event; until then, check Kafka."""
        checks = StandbyChecks(self._settings, registration, lock.session, self._health)

        def locked_elsewhere() -> None:
            self._forget()
            checks.begin()
            if checks.done_once:  # until then, it is unknown whether this worker could lead
                self._health.enter_standby()

        waiting = lock.acquire(registration.name, self._stop, locked_elsewhere)
        await run_with(waiting, checks.run())

    async def _lead(self, registration: Registration, checkpoints: Checkpoints) -> None:
        """Take over, and publish until the stop event, the producer's replacement or an error."""
        take_over = takeover.TakeOver(
            settings=self._settings,
            registration=registration,
            checkpoints=checkpoints,
            on_change=self._on_change,
            sizes=self._sizes,
            stop=self._stop,
            health=self._health,
            metrics=self._metrics,
            pausing=self._pausing,
            accept_topic=self._accept_topic,
            make_term=self._make_term,
        )
        async with take_over.term() as term:
            self._accept_topic = False  # the operator has accepted this topic, and not a later one
            self.lag.follow(term.published)
            self._retention.follow(term.published)
            self._term = term
            try:
                await run_with(term.run(), self._retention.run(), term.wakeup.keep())
            finally:
                self._term = None
                if not self._stop.is_set():
                    self._health.enter("starting")

    def _note(self, error: Exception) -> None:
        """Report the error that ended a term; make the next page or batch smaller if it was too large."""
        self._metrics.errors.labels(kind=type(error).__name__).inc()
        if isinstance(error, FencedError):
            self._metrics.fenced.inc()
        self._sizes.shrink_after(error)
        self._health.set_problem(
            type(error).__name__,
            first_line(error),
            _during(error),
            with_lock=self._has_lock,
        )


def _during(error: BaseException) -> str:
    """Return the innermost function of the worker in the error's traceback."""
    package = __name__.partition(".")[0]
    functions = [
        f"{frame.f_globals['__name__'].rpartition('.')[2]}.{frame.f_code.co_name}"
        for frame, _ in traceback.walk_tb(error.__traceback__)
        if frame.f_globals["__name__"].startswith(package)
    ]
    return functions[-1] if functions else ""
