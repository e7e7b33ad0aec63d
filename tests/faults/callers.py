"""Callers that know what the service must answer: each has its own document, and checks each answer."""

import asyncio
import random
import time
from collections import Counter
from collections.abc import Sequence
from typing import Final, Self

import httpx

RESOURCES: Final = [f"ship_{number}" for number in range(1, 9)]
CLIENT_TIMEOUT_S: Final = 40
"""Longer than any answer may take, so that a wait that is too long is measured, not cut off."""
BACK_OFF_S: Final = 0.05


class Caller:
    """Links, unlinks and lists, one call after another.

    `known` has whether each resource is linked; None: a 503 left it unknown.
    """

    def __init__(self, client: httpx.AsyncClient, document: str, seed: int) -> None:
        self._client = client
        self._path = f"/v1/documents/{document}/links"
        self._random = random.Random(seed)
        self.known: dict[str, bool | None] = dict.fromkeys(RESOURCES, False)
        self.counts: Counter[str] = Counter()
        self.answers: Counter[tuple[str, str]] = Counter()
        self.wrong: list[str] = []
        self.longest_s: Counter[str] = Counter()

    async def run(self, stop: asyncio.Event) -> None:
        """Call until `stop` is set."""
        while not stop.is_set():
            await self._random.choice([self.link, self.link, self.unlink, self.list])()

    async def link(self) -> None:
        """Link a resource."""
        resource = self._random.choice(RESOURCES)
        known, self.known[resource] = self.known[resource], None
        answer = await self._send("POST", json={"resource_id": resource})
        if answer is not None:
            self._expect(answer, {True: {200}, False: {200, 201}, None: {200, 201}}[known])
            self.known[resource] = True

    async def unlink(self) -> None:
        """Unlink a resource."""
        resource = self._random.choice(RESOURCES)
        known, self.known[resource] = self.known[resource], None
        answer = await self._send("DELETE", params={"resource_id": resource})
        if answer is not None:
            self._expect(answer, {True: {200}, False: {404}, None: {200, 404}}[known])
            self.known[resource] = False

    async def list(self) -> None:
        """List the links, and compare them with `known`."""
        answer = await self._send("GET", params={"limit": 100})
        if answer is None or not self._expect(answer, {200}):
            return
        shown = {link["resource"]["id"] for link in answer.json()["data"]}
        for resource, known in self.known.items():
            if known is not None and known != (resource in shown):
                self.wrong.append(f"{self._path}: {resource} should be {known}, {shown}")

    async def _send(self, method: str, **what: object) -> httpx.Response | None:
        """Return the answer; None: there was no answer, or it was a 503."""
        kind = "read" if method == "GET" else "write"
        began = time.monotonic()
        try:
            answer = await self._client.request(method, self._path, **what)  # type: ignore[arg-type]
        except httpx.HTTPError:  # the process that served it was killed
            answer = None
        waited_s = time.monotonic() - began
        self.longest_s[kind] = max(self.longest_s[kind], waited_s)  # type: ignore[assignment]
        self.counts["calls"] += 1
        if answer is not None:
            self.answers[method, str(answer.status_code)] += 1
        if answer is None or answer.status_code == httpx.codes.SERVICE_UNAVAILABLE:
            self.counts["unavailable"] += 1
            self.counts["unanswered"] += answer is None
            self._check_refusal(answer)
            await asyncio.sleep(BACK_OFF_S)
            return None
        return answer

    def _check_refusal(self, answer: httpx.Response | None) -> None:
        if answer is not None and "retry-after" not in answer.headers:
            self.wrong.append(f"503 without Retry-After: {answer.text}")

    def _expect(self, answer: httpx.Response, statuses: set[int]) -> bool:
        right = answer.status_code in statuses
        if not right:
            self.wrong.append(f"{answer.request.method} {answer.status_code}: {answer.text}")
        return right


class Callers:
    """Several concurrent callers, until the context ends."""

    def __init__(self, url: str, key: str, documents: Sequence[str]) -> None:
        self._stop = asyncio.Event()
        self._client = httpx.AsyncClient(
            base_url=url,
            headers={"X-API-KEY": key},
            timeout=CLIENT_TIMEOUT_S,
            limits=httpx.Limits(max_connections=len(documents)),
        )
        self.each = [
            Caller(self._client, document, seed) for seed, document in enumerate(documents)
        ]

    async def __aenter__(self) -> Self:
        """Begin to call."""
        self._tasks = [asyncio.create_task(caller.run(self._stop)) for caller in self.each]
        return self

    async def __aexit__(self, *_: object) -> None:
        """Let each caller finish its call, and list its links once more."""
        self._stop.set()
        await asyncio.gather(*self._tasks)
        await asyncio.gather(*(caller.list() for caller in self.each))
        await self._client.aclose()

    def count(self, name: str) -> int:
        """Return the sum of a count over all callers."""
        return sum(caller.counts[name] for caller in self.each)

    @property
    def answers(self) -> Counter[tuple[str, str]]:
        """The number of answers by method and status."""
        return sum((caller.answers for caller in self.each), Counter())

    def longest_s(self, kind: str) -> float:
        """Return the longest wait for an answer to a `read` or a `write`."""
        return max(caller.longest_s[kind] for caller in self.each)

    @property
    def wrong(self) -> list[str]:
        """The wrong answers."""
        return [each for caller in self.each for each in caller.wrong]
