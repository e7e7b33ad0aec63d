"""The pages /metrics and /readyz, read as Prometheus and a load balancer read them."""

import asyncio
from collections.abc import Mapping
from typing import Final, NamedTuple

import httpx
from prometheus_client.parser import text_string_to_metric_families

from tests.support.relay.worker import Worker

SCRAPE_TIMEOUT_S: Final = 3.0
OK: Final = 200

Series = Mapping[tuple[str, frozenset[tuple[str, str]]], float]
"""Values by metric name and labels."""


class Scrape(NamedTuple):
    """The pages of one process."""

    series: Series
    ready: bool
    status: str
    """The state in /readyz."""

    def value(self, name: str, **labels: str) -> float | None:
        """Return the value of a metric; None if the page does not show it."""
        return self.series.get((name, frozenset(labels.items())))

    @property
    def started(self) -> float | None:
        """The start time of the process, which differs between two processes of a worker."""
        return self.value("process_start_time_seconds")


class Scraper:
    """Reads the pages of workers and service; a page that is not answered in time is None."""

    def __init__(self) -> None:
        self._client = httpx.AsyncClient(timeout=SCRAPE_TIMEOUT_S)

    async def close(self) -> None:
        """Close its connections."""
        await self._client.aclose()

    async def worker(self, worker: Worker) -> Scrape | None:
        """Return a worker's pages; None: it did not answer, or its state changed between two reads."""
        urls = [line["url"] for line in worker.log() if line["event"] == "worker.started"]
        before = await self.page(urls[-1]) if urls else None
        after = await self.page(urls[-1]) if before is not None else None
        if before is None or after is None:
            return None
        same = before.value("outbox_leader") == after.value("outbox_leader")
        return before if same and before.status == after.status else None

    async def page(self, url: str) -> Scrape | None:
        """Return a program's pages; None: it did not answer."""
        try:
            ready, metrics = await asyncio.gather(
                self._client.get(f"{url}/readyz"), self._client.get(f"{url}/metrics")
            )
        except httpx.HTTPError:
            return None
        series = {
            (sample.name, frozenset(sample.labels.items())): sample.value
            for family in text_string_to_metric_families(metrics.text)
            for sample in family.samples
        }
        return Scrape(series, ready.status_code == OK, ready.json()["status"])
