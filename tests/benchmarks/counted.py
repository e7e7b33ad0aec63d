"""Rows held against answers: a figure of something that went wrong is none."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from deploy.local.process import LocalError
from tests.benchmarks.stage import fetch_row

COUNTS = """
SELECT (SELECT count(*) FROM document_links) AS links, (SELECT count(*) FROM outbox) AS events
"""
LEAST_NEW = 0.98
"""Of random links: the others were there before."""


class Rows:
    """How many links and events were written."""

    def __init__(self) -> None:
        self.links = 0
        self.events = 0

    def check(self, answers: int, cut_off: int = 0) -> None:
        """LocalError unless each answer has its link, and each link its event.

        A few random links are not new; so many may be `cut_off`, on their way when the warm-up
        ended, and again at the end.
        """
        most = answers + 2 * cut_off
        if self.links != self.events or not LEAST_NEW * answers <= self.links <= most:
            raise LocalError(f"{answers} answers, {self.links} links, {self.events} events")


@asynccontextmanager
async def rows(dsn: str, query: str = COUNTS) -> AsyncIterator[Rows]:
    """Yield what is filled in at the end: the rows that were written in the meantime."""
    before = await fetch_row(dsn, query)
    written = Rows()
    yield written
    after = await fetch_row(dsn, query)
    written.links = after["links"] - before["links"]
    written.events = after["events"] - before["events"]
