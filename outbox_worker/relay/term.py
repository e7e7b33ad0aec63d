"""A leader's work: it reads page after page of the outbox and publishes each with the cursor after it."""

import asyncio
import secrets
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

import msgspec
from aiokafka.errors import MessageSizeTooLargeError

from outbox_worker.kafka.publisher import (
    BATCH_BYTES,
    LEAST_BATCH_BYTES,
    PUBLISH_TIMEOUT_S,
    Publisher,
    Round,
    TooSlowError,
)
from outbox_worker.postgres.checkpoints import Checkpoints
from outbox_worker.postgres.cursor import Cursor
from outbox_worker.postgres.progress import Progress
from outbox_worker.postgres.window import Page, Window
from outbox_worker.relay.health import Health
from outbox_worker.relay.metrics import Metrics
from outbox_worker.relay.pausing import Pausing
from outbox_worker.relay.start import Start
from outbox_worker.relay.wakeup import Wakeup
from outbox_worker.tasks import pause

CHECKPOINT_EVERY_S = 10
PAUSED_S = 0.25
"""The time between two looks at the pause, which the leader's session reads every second."""
GROW_BELOW_S = PUBLISH_TIMEOUT_S / 4
"""After a page that was published within this time, the next one may be twice as large: it is expected
to take half of the time limit at most."""


class Sizes:
    """The limits of a page (events) and of a batch (bytes), adapted to errors; they outlive a term."""

    def __init__(self, max_page_events: int) -> None:
        self._max_page_events = max_page_events
        self.page_events = max_page_events
        self.batch_bytes = BATCH_BYTES

    def shrink_after(self, error: Exception) -> None:
        """Halve the limit of a batch that brokers refused, or of a page that they took too long for."""
        if isinstance(error, MessageSizeTooLargeError):
            self.batch_bytes = max(self.batch_bytes // 2, LEAST_BATCH_BYTES)
        if isinstance(error, TooSlowError):
            # Half of what brokers acknowledged within the time limit: the commit needs time too.
            self.page_events = max((error.acknowledged or self.page_events) // 2, 1)

    def grow_after(self, seconds: float) -> int:
        """Return the size of the next page: twice the present one if that was published quickly."""
        if seconds < GROW_BELOW_S:
            self.page_events = min(2 * self.page_events, self._max_page_events)
        return self.page_events


class Ledger:
    """The cursor and the counts after the last page that Kafka has committed."""

    def __init__(self, checkpoints: Checkpoints, start: Start) -> None:
        self._checkpoints = checkpoints
        self._offsets = dict(start.offsets)
        self._topic_id = start.topic_id
        self._events = start.events
        self._anchor = start.anchor
        self._token = ""
        self.cursor = start.cursor
        self.events_since_checkpoint = 0

    def progress_after(self, page: Page) -> Progress:
        """Return the record that is published together with a page."""
        cursor = page.cursor
        cluster = self._checkpoints.cluster
        return Progress(
            system_identifier=cluster.system_identifier,
            database_oid=cluster.database_oid,
            timeline=cluster.timeline,
            checkpoint=self._token,
            s0=str(cursor.s0),
            s1=None if cursor.s1 is None else str(cursor.s1),
            after=cursor.after,
            offsets=self._offsets,
            events=self._events + len(page.rows),
            anchor=page.anchor or self._anchor,
            at=time.time(),
            topic_id=self._topic_id,
        )

    def progress(self) -> Progress:
        """Return the record for the present cursor."""
        return self.progress_after(Page((), self.cursor))

    def advance(self, page: Page, offsets: Mapping[int, int]) -> None:
        """Note that a page is committed, with the highest offset of each partition."""
        self.cursor = page.cursor
        self._anchor = page.anchor or self._anchor
        self._events += len(page.rows)
        self.events_since_checkpoint += len(page.rows)
        self._offsets.update(offsets)

    async def write_checkpoint(self) -> None:
        """Write the record to the database under a new token, which later records name."""
        token = secrets.token_hex(8)
        await self._checkpoints.write(msgspec.structs.replace(self.progress(), checkpoint=token))
        self._token = token
        self.events_since_checkpoint = 0


class Packed(NamedTuple):
    """A page and its record batches, ready to be sent."""

    page: Page
    rounds: list[Round]


@dataclass(kw_only=True)
class Term:
    """Publishes until the worker is told to stop, or an error ends it."""

    window: Window
    wakeup: Wakeup
    publisher: Publisher
    ledger: Ledger
    sizes: Sizes
    stop: asyncio.Event
    health: Health
    metrics: Metrics
    pausing: Pausing
    _checkpoint_due: float = field(default=0, init=False)
    _next_page: asyncio.Task[Packed] | None = field(default=None, init=False)

    async def run(self) -> None:
        """Publish all pages, then wait for more; return early if the producer has to be replaced."""
        self._checkpoint_due = time.monotonic() + CHECKPOINT_EVERY_S
        try:
            while not self._must_end:
                if self.pausing.pause is not None:
                    await self._stay_paused()
                elif await self.run_once():
                    self.wakeup.reset()
                else:
                    await self.wakeup.wait()
                if time.monotonic() >= self._checkpoint_due:
                    await self._checkpoint()
            await self._checkpoint()
        finally:
            if self._next_page is not None:
                self._next_page.cancel()

    @property
    def _must_end(self) -> bool:
        return self.stop.is_set() or self.publisher.must_be_replaced

    async def _stay_paused(self) -> None:
        """Publish nothing until the pause ends, or the term."""
        # A page that was read ahead has the present time as its records' timestamp.
        ahead, self._next_page = self._next_page, None
        if ahead is not None:
            await ahead
        await self._checkpoint()
        self.pausing.holding = True
        try:
            while self.pausing.pause is not None and not self._must_end:
                self.health.progressed()
                await pause(self.stop, PAUSED_S)
        finally:
            self.pausing.holding = False

    def published(self) -> Cursor:
        """Return the cursor after all that is published."""
        return self.ledger.cursor

    async def run_once(self) -> bool:
        """Publish one page with the cursor after it; return whether the next page may have rows already."""
        page, rounds = await self._take_next()
        # Only a backlog is read ahead. Otherwise the page read ahead would have few rows, and the rows
        # that are committed meanwhile would wait for one more transaction. More work ahead was slower: on
        # two cores a drain exactly once had 0.9 of the rate when the page was also compressed ahead, with a
        # second page read ahead or without.
        if page.in_backlog:
            self._next_page = asyncio.create_task(self._read(page.cursor))
        offsets: dict[int, int] = {}
        if page.rows:
            began = time.monotonic()
            try:
                offsets = await self.publish(page, rounds)
            except Exception:
                self.metrics.page_retries.inc()
                raise
            self._count(page, rounds, time.monotonic() - began)
        self.ledger.advance(page, offsets)
        self.health.progressed()
        return bool(page.rows) or page.in_backlog

    async def publish(self, page: Page, rounds: list[Round]) -> dict[int, int]:
        """Publish a page and the cursor after it; return the highest offset of each partition."""
        progress = msgspec.json.encode(self.ledger.progress_after(page))
        return await self.publisher.publish(rounds, progress)

    async def _take_next(self) -> Packed:
        """Return the page that was read ahead, or read one."""
        ahead, self._next_page = self._next_page, None
        return await (ahead or self._read(self.ledger.cursor))

    async def _read(self, cursor: Cursor) -> Packed:
        """Read the page after a cursor and pack it."""
        page = await self.window.read(cursor)
        return Packed(page, await self.publisher.pack(page.rows))

    async def _checkpoint(self) -> None:
        """Write the cursor to the database, if events were published since the last time."""
        if self.ledger.events_since_checkpoint:
            await self.ledger.write_checkpoint()
        self._checkpoint_due = time.monotonic() + CHECKPOINT_EVERY_S

    def _count(self, page: Page, rounds: list[Round], seconds: float) -> None:
        events, metrics = len(page.rows), self.metrics
        self.window.page_events = self.sizes.grow_after(seconds)
        metrics.published.inc(events)
        metrics.published_bytes.inc(sum(batch.size() for sent in rounds for batch in sent.values()))
        metrics.event_age.observe(page.written_at, self.window.server_time(), events)
        metrics.batch_events.observe(events)
        metrics.batch_seconds.observe(seconds)
        metrics.last_publish.set_to_current_time()
