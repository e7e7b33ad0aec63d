"""What one leader has published, and the progress records that say so."""

import secrets
import time
from collections.abc import Mapping

import msgspec

from outbox_worker.postgres.checkpoints import Checkpoints
from outbox_worker.postgres.progress import Progress
from outbox_worker.postgres.window import Page
from outbox_worker.relay.start import Start


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
        """Return the record of what is published now."""
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
