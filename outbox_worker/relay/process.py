"""The relay's protocol, from top to bottom: run, lead, take over, then page after page.

A page of the outbox (window.py) goes to Kafka together with the cursor after it, in one
transaction (publisher.py): either both are there or neither, so there is nothing to reconcile
after a crash. Postgres is only read from, but for a checkpoint every 10 s of work.
"""

import asyncio
import time
import traceback
from collections.abc import Coroutine
from contextlib import AsyncExitStack
from functools import partial
from typing import Any, NamedTuple

import msgspec
from aiokafka.errors import KafkaError, MessageSizeTooLargeError

from outbox_worker.backoff import Backoff
from outbox_worker.kafka.guard import TopicGuard
from outbox_worker.kafka.progress import Start
from outbox_worker.kafka.publisher import (
    BATCH_BYTES,
    LEAST_BATCH_BYTES,
    PUBLISH_TIMEOUT_S,
    FencedError,
    Publisher,
    Round,
    TooSlowError,
)
from outbox_worker.kafka.topics import TopicLostError
from outbox_worker.logs import first_line, get_logger
from outbox_worker.postgres import sessions
from outbox_worker.postgres.registration import Registration
from outbox_worker.postgres.window import Cursor, Page, Window
from outbox_worker.relay import takeover
from outbox_worker.relay.candidate import Candidate
from outbox_worker.relay.health import Health, Told
from outbox_worker.relay.lag import Lag
from outbox_worker.relay.leader import Leader, LeadershipLostError
from outbox_worker.relay.ledger import Checkpoints, Ledger, newest_cursor
from outbox_worker.relay.metrics import Metrics
from outbox_worker.relay.retention import Retention
from outbox_worker.relay.wakeup import HintsLostError, Wakeup
from outbox_worker.settings import Settings

log = get_logger(__name__)

CHECKPOINT_EVERY_S = 10
# A page of twice the events then still has half of the time that a publish may take.
GROW_BELOW_S = PUBLISH_TIMEOUT_S / 4
# What time or an operator mends while we keep trying: all that Postgres, Kafka and the network say.
TRANSIENT = (
    *sessions.ERRORS,
    KafkaError,
    LeadershipLostError,
    FencedError,
    HintsLostError,
    TopicLostError,
)


class Relay:
    """One process: stands by, leads, and begins again after whatever goes wrong."""

    def __init__(
        self,
        settings: Settings,
        stop: asyncio.Event,
        health: Health,
        metrics: Metrics,
        *,
        accept_topic: bool = False,
    ) -> None:
        self.settings = settings
        self.stop = stop
        self.health = health
        self.metrics = metrics
        metrics.leading.set_function(lambda: float(health.state == "leading"))
        self._accept_topic = accept_topic
        self._leader_backend = 0
        self._batch_bytes = BATCH_BYTES
        self._page_events = settings.batch_size
        self._has_lock = False
        self._told = Told()
        self._retention = Retention(settings, stop, metrics)
        self._lag = Lag(settings.session_database_url, stop, metrics)

    async def run(self) -> None:
        """Lead whenever possible, until told to stop; RefusedError where no retry helps."""
        await accompanied(self._lead_again(), self._lag.run())

    async def _lead_again(self) -> None:
        backoff = Backoff(self.stop)
        while not self.stop.is_set():
            began = time.monotonic()
            try:
                await self.lead()
            except TRANSIENT as error:
                if self.health.progressed_since(began):
                    backoff.reset()
                self._note(error)
                await backoff.wait()

    async def lead(self) -> None:
        """One term: from the lock to whatever ends it."""
        self._has_lock = False
        async with AsyncExitStack() as stack:
            leader = await self._open_leader()
            stack.push_async_callback(self._close_leader, leader)
            registration = await takeover.identify(leader.session, self.settings, self._told)
            await self._stand_by(leader, registration)
            if not self.stop.is_set():
                self._has_lock = True
                checkpoints = await Checkpoints.of(leader.session, registration.name)
                self._lag.begin(partial(newest_cursor, relay=registration.name))
                await accompanied(self._term(registration, checkpoints), leader.keep())

    async def _open_leader(self) -> Leader:
        try:
            return await Leader.open(self.settings.session_database_url, self._leader_backend)
        except sessions.ERRORS:
            self._lag.forget()  # who cannot reach the lock does not hold it
            raise

    async def _close_leader(self, leader: Leader) -> None:
        self._leader_backend = leader.backend
        await leader.close()

    async def _term(self, registration: Registration, checkpoints: Checkpoints) -> None:
        async with AsyncExitStack() as stack:
            term = await self._take_over(registration, checkpoints, stack)
            stack.callback(self._resign)
            self._lag.follow(term.published)
            self._retention.follow(term.published)
            await accompanied(term.run(), self._retention.run(), term.keep_listening())

    async def _take_over(
        self, registration: Registration, checkpoints: Checkpoints, stack: AsyncExitStack
    ) -> "Term":
        """Fence the predecessor; only then read how far it came, since it cannot commit any more."""
        settings = self.settings
        limit = await takeover.prepare_topics(settings, registration, self._told)
        await takeover.refuse_foreign(settings, registration, checkpoints)
        publisher = Publisher(settings, registration, min(limit, self._batch_bytes))
        stack.push_async_callback(publisher.close)
        await publisher.start()
        start = await takeover.find_start(settings, registration, checkpoints, self._told)
        start = await takeover.check_topic(
            settings, registration, start, self._told, accept=self._accept_topic
        )
        publisher.watch(TopicGuard(settings.topic, start.topic_id, start.offsets))
        ledger = Ledger(checkpoints, start)
        await ledger.checkpoint()
        # From here on a progress topic without a record is one that was lost.
        await publisher.publish([], msgspec.json.encode(ledger.record(Page((), ledger.cursor))))
        window = await Window.open(settings.session_database_url, self._page_events)
        stack.push_async_callback(window.close)
        wakeup = await Wakeup.open(settings.session_database_url)
        stack.push_async_callback(wakeup.close)
        self._lead(start)
        return Term(self, window, wakeup, publisher, ledger)

    async def _stand_by(self, leader: Leader, registration: Registration) -> None:
        """Return once the worker has the lock, or is told to stop; meanwhile check Kafka."""
        candidate = Candidate(self.settings, registration, leader.session, self.health)

        def locked_elsewhere() -> None:
            self._lag.forget()
            candidate.stand_by()
            if candidate.checked:  # before, nothing says whether this standby is ready
                self.health.stands_by()

        waiting = leader.acquire(registration.name, self.stop, locked_elsewhere)
        await accompanied(waiting, candidate.run())

    def _resign(self) -> None:
        """Leave the state of a leader with the term; a worker that stops says so until it ends."""
        if not self.stop.is_set():
            self.health.enter("starting")

    def _lead(self, start: Start) -> None:
        self._accept_topic = False  # said once, for the topic as it is now
        self.health.enter("leading")
        self.metrics.starts.labels(source=start.source).inc()
        say = log.warning if start.source == "checkpoint" else log.info
        say("relay.started", source=start.source, reason=start.reason, s0=str(start.cursor.s0))

    def larger_page(self) -> int:
        """Return how many events the next page may have after one that went fast: twice as many."""
        self._page_events = min(2 * self._page_events, self.settings.batch_size)
        return self._page_events

    def _note(self, error: Exception) -> None:
        """Say what ended a term, and draw the lesson where there is one."""
        self.metrics.errors.labels(kind=type(error).__name__).inc()
        if isinstance(error, FencedError):
            self.metrics.fenced.inc()
        if isinstance(error, MessageSizeTooLargeError):
            self._batch_bytes = max(self._batch_bytes // 2, LEAST_BATCH_BYTES)
        if isinstance(error, TooSlowError):
            # Half of what came through: the other half of the time is for the commit and its like.
            self._page_events = max((error.acknowledged or self._page_events) // 2, 1)
        self.health.failing(
            type(error).__name__,
            with_lock=self._has_lock,
            detail=first_line(error),
            during=_during(error),
        )


def _during(error: BaseException) -> str:
    """Return the innermost function of the worker that the error came through."""
    ours = [
        f"{frame.f_globals['__name__'].rpartition('.')[2]}.{frame.f_code.co_name}"
        for frame, _ in traceback.walk_tb(error.__traceback__)
        if frame.f_globals["__name__"].startswith(__package__ or "")
    ]
    return ours[-1] if ours else ""


class Packed(NamedTuple):
    """A page and its batches, ready to go."""

    page: Page
    rounds: list[Round]


class Term:
    """A leader's work: page after page, until told to stop."""

    def __init__(
        self, relay: Relay, window: Window, wakeup: Wakeup, publisher: Publisher, ledger: Ledger
    ) -> None:
        self._relay = relay
        self._window = window
        self._wakeup = wakeup
        self._publisher = publisher
        self._ledger = ledger
        self._checkpoint_due = time.monotonic() + CHECKPOINT_EVERY_S
        self._ahead: asyncio.Task[Packed] | None = None

    async def run(self) -> None:
        """Publish what there is, then wait for more; a worn-out producer ends the term early."""
        try:
            while not (self._relay.stop.is_set() or self._publisher.worn_out):
                if await self.run_once():
                    self._wakeup.reset()
                else:
                    await self._wakeup.wait()
                if time.monotonic() >= self._checkpoint_due:
                    await self._checkpoint()
            await self._checkpoint()
        finally:
            if self._ahead is not None:
                self._ahead.cancel()

    async def keep_listening(self) -> None:
        """Keep the session that hints come over alive, until cancelled."""
        await self._wakeup.keep()

    def published(self) -> Cursor:
        """Return the cursor up to which all is published."""
        return self._ledger.cursor

    async def run_once(self) -> bool:
        """Publish one page with the cursor after it; False where the outbox had nothing new."""
        page, rounds = await self._next()
        if page.in_backlog:  # while following, rows read early would wait for a whole batch
            self._ahead = asyncio.create_task(self._read(page))
        if page.rows:
            began = time.monotonic()
            record = msgspec.json.encode(self._ledger.record(page))
            offsets = await self._publisher.publish(rounds, record)
            self._ledger.published(page, offsets)
            seconds = time.monotonic() - began
            self._count(len(page.rows), seconds)
            if seconds < GROW_BELOW_S:
                self._window.batch_size = self._relay.larger_page()
        else:
            self._ledger.passed(page)
        self._relay.health.progressed()
        return bool(page.rows) or page.in_backlog

    async def _next(self) -> Packed:
        ahead, self._ahead = self._ahead, None
        return await (ahead or self._read(None))

    async def _read(self, page: Page | None) -> Packed:
        """Read what comes after a page, or after what is published, and pack it."""
        cursor = self._ledger.cursor if page is None else page.cursor
        following = await self._window.read(cursor)
        return Packed(following, self._publisher.pack(following.rows))

    async def _checkpoint(self) -> None:
        """Write the cursor to the database, if it has moved."""
        if self._ledger.unchecked:
            await self._ledger.checkpoint()
        self._checkpoint_due = time.monotonic() + CHECKPOINT_EVERY_S

    def _count(self, events: int, seconds: float) -> None:
        metrics = self._relay.metrics
        metrics.published.inc(events)
        metrics.batch_events.observe(events)
        metrics.batch_seconds.observe(seconds)
        metrics.last_publish.set_to_current_time()


async def accompanied(work: Coroutine[Any, Any, None], *others: Coroutine[Any, Any, None]) -> None:
    """Run others beside the work until it ends; one of them that fails ends it."""
    tasks = [asyncio.create_task(each) for each in (work, *others)]
    try:
        pending = set(tasks)
        while tasks[0] in pending:
            done, pending = await asyncio.wait(pending, return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                task.result()
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)  # a second error is not told
