"""A load balancer inside the caller: calls go to the services in turn, and each answer is counted."""

import random
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from threading import Lock

import httpx

from tests.support.waiting import eventually

TWICE = 5
"""One of so many writes is sent twice, to two services, with one Idempotency-Key."""


class Balancer:
    """The services in rotation, for callers on several threads."""

    def __init__(self, urls: Sequence[str]) -> None:
        self._lock = Lock()
        self._urls = list(urls)
        self._in_flight = Counter[str]()
        self.answers = Counter[tuple[str, int]]()
        """How many answers each service gave, by status."""
        self.replayed = 0
        self.wrong: list[str] = []

    def add(self, *urls: str) -> None:
        """Send calls to further services, too."""
        with self._lock:
            self._urls += urls

    def remove(self, *urls: str) -> None:
        """Send no more calls to these services; return when none is in flight there."""
        with self._lock:
            self._urls = [url for url in self._urls if url not in urls]
        eventually(lambda: not any(self._in_flight[url] for url in urls))

    def each_answered(self, calls: int) -> None:
        """Return when each service in rotation has answered so many calls more."""
        wanted = {url: self.count(url) + calls for url in self._urls}
        eventually(lambda: all(self.count(url) >= number for url, number in wanted.items()))

    def count(self, url: str) -> int:
        """Return how many answers a service has given."""
        with self._lock:
            return sum(number for (where, _), number in self.answers.items() if where == url)

    def answered(self, url: str, response: httpx.Response) -> None:
        """Count an answer."""
        with self._lock:
            self.answers[url, response.status_code] += 1

    @contextmanager
    def picked(self, other_than: str = "") -> Iterator[str]:
        """Lend the URL of a service for one call."""
        with self._lock:
            url = random.choice([each for each in self._urls if each != other_than] or self._urls)
            self._in_flight[url] += 1
        try:
            yield url
        finally:
            with self._lock:
                self._in_flight[url] -= 1


class BalancedTransport(httpx.AsyncHTTPTransport):
    """Sends each request to a service that the balancer picks."""

    def __init__(self, balancer: Balancer) -> None:
        super().__init__()
        self._balancer = balancer
        self._random = random.Random(1)

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        """Send the request; some writes twice, and then the second answer must repeat the first."""
        twice = request.method != "GET" and self._random.randrange(TWICE) == 0
        if twice:
            request.headers["Idempotency-Key"] = f"key-{self._random.random()}-{id(self)}"
        first, where = await self._send(request)
        if twice and first.is_success:
            second, _ = await self._send(request, other_than=where)
            same = (second.status_code, second.content) == (first.status_code, first.content)
            if not same or second.headers.get("Idempotent-Replayed") != "true":
                self._balancer.wrong.append(f"{request.url}: {first.text}, then {second.text}")
            self._balancer.replayed += 1
        return first

    async def _send(
        self, request: httpx.Request, other_than: str = ""
    ) -> tuple[httpx.Response, str]:
        with self._balancer.picked(other_than) as url:
            service = httpx.URL(url)
            request.url = request.url.copy_with(host=service.host, port=service.port)
            response = await super().handle_async_request(request)
            await response.aread()
        self._balancer.answered(url, response)
        return response, url
