"""Many callers write to a few documents through several processes, each with its own pool."""

import asyncio
import json
import random
import sys
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import asyncpg
import pytest

from deploy.local.programs import create_key, service
from tests.faults.light import LightCaller
from tests.support.service.api import GENEROUS, seed
from tests.support.topic.subscriber import check_outbox

PROCESSES = 4
CALLERS = 64
SECONDS = 10.0
WARM_UP_S = 2.0
FAIR = 10
"""The caller with the fewest answers has at least this part of the median. A caller that is overtaken again
and again would have next to none."""


class Waits:
    """The waits of all calls to one process, their statuses, and the number of answers to each caller."""

    def __init__(self, url: str, key: str, documents: int) -> None:
        self.url = url
        self.key = key
        self.documents = documents
        self.seconds: list[float] = []
        self.statuses = Counter[int]()
        self.answers = Counter[int]()

    async def run(self, number: int, end: float) -> None:
        """Link and unlink the caller's own resource, on one of the documents at random."""
        choice = random.Random(number)
        resource = f"ship_{number + 1}"
        body = json.dumps({"resource_id": resource}).encode()
        async with LightCaller(self.url, self.key) as caller:
            while time.monotonic() < end:
                path = f"/v1/documents/doc_{choice.randint(1, self.documents)}/links"
                await self._measure(caller, "POST", path, body)
                await self._measure(caller, "DELETE", f"{path}?resource_id={resource}")
                self.answers[number] += 1

    async def _measure(
        self, caller: LightCaller, method: str, path: str, body: bytes = b""
    ) -> None:
        began = time.monotonic()
        answer = await caller.call(method, path, body)
        self.seconds.append(time.monotonic() - began)
        self.statuses[answer.status] += 1


async def measure(urls: list[str], key: str, documents: int, seconds: float) -> list[Waits]:
    """Let the callers write to all processes for so many seconds; return the waits of each process."""
    waits = [Waits(url, key, documents) for url in urls]
    end = time.monotonic() + seconds
    await asyncio.gather(*(waits[n % len(urls)].run(n, end) for n in range(CALLERS)))
    return waits


@pytest.fixture(params=[1, 2, PROCESSES])
def processes(request: pytest.FixtureRequest, database: str, tmp_path: Path) -> Iterator[list[str]]:
    """Yield the URLs of so many services on one database."""
    with ExitStack() as running:
        urls = []
        for number in range(request.param):
            logs = tmp_path / str(number)
            logs.mkdir()
            program = service(database, logs, LINKS_RATE_LIMIT=GENEROUS)
            urls.append(running.enter_context(program).url)
        yield urls


@pytest.mark.parametrize("documents", [1, 2, 5, 20, 1000])
async def test_no_caller_is_overtaken_again_and_again(
    processes: list[str], database: str, documents: int
) -> None:
    """Each call succeeds, and no caller gets far fewer answers than the others."""
    key = create_key(database)
    connection = await asyncpg.connect(database)
    await seed(connection, documents, CALLERS, "demo")
    await measure(processes, key, documents, WARM_UP_S)
    measured = await measure(processes, key, documents, SECONDS)
    seconds = sorted(wait for waits in measured for wait in waits.seconds)
    median, p99 = seconds[len(seconds) // 2], seconds[len(seconds) * 99 // 100]
    sys.stdout.write(
        f"\n{len(processes)} processes, {documents} documents: {len(seconds) / SECONDS:.0f} calls/s, "
        f"median {median * 1e3:.0f} ms, p99 {p99 * 1e3:.0f} ms, longest {seconds[-1] * 1e3:.0f} ms\n"
    )
    statuses = sum((waits.statuses for waits in measured), Counter[int]())
    assert set(statuses) <= {200, 201}
    answers = sorted(sum((waits.answers for waits in measured), Counter[int]()).values())
    assert len(answers) == CALLERS
    assert FAIR * answers[0] >= answers[CALLERS // 2]
    await check_outbox(connection)
    await connection.close()
