"""Callers that send the mix at a steady rate, whatever the answers take."""

import asyncio
import time
from collections import Counter
from typing import Final, NamedTuple
from urllib.parse import urlsplit

from tests.soak.mix import Request, World, choose, encode
from tests.support.streams import abort

CONNECTIONS: Final = 16
ANSWER_S: Final = 30
"""Longer than any answer may take, so that a long wait is measured. After it, the call counts as an error."""
EXAMPLES: Final = 20
"""The number of errors whose text is kept."""
NO_ANSWER: Final = (OSError, asyncio.IncompleteReadError, TimeoutError)


class Answer(NamedTuple):
    """The status and the body of a response."""

    status: int
    body: bytes


class Connection:
    """A connection to the service, opened anew after a call without an answer."""

    def __init__(self, url: str, key: str) -> None:
        address = urlsplit(url)
        self._host, self._port = address.hostname or "", address.port or 80
        self._key = key
        self._streams: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None

    async def call(self, request: Request) -> Answer:
        """Send a request and return its answer; one of NO_ANSWER is raised if there is none."""
        try:
            async with asyncio.timeout(ANSWER_S):
                if self._streams is None:
                    self._streams = await asyncio.open_connection(self._host, self._port)
                reader, writer = self._streams
                writer.write(encode(request, self._host, self._key))
                return await _read(reader)
        except NO_ANSWER:
            await self.close()
            raise

    async def close(self) -> None:
        """Close the connection."""
        if self._streams is not None:
            _, writer = self._streams
            self._streams = None
            await abort(writer)


async def _read(reader: asyncio.StreamReader) -> Answer:
    head = await reader.readuntil(b"\r\n\r\n")
    length = 0
    for line in head.lower().splitlines():
        if line.startswith(b"content-length:"):
            length = int(line.partition(b":")[2])
    return Answer(int(head.split(maxsplit=2)[1]), await reader.readexactly(length))


class Callers:
    """Sends random calls of the mix until `stop`, and counts them.

    `waits_s` has the wait for each answer since the last `take_waits`. A call that had to wait for a free
    connection began when it was due, so a pause of the service counts for each call that it delays.
    """

    def __init__(self, url: str, key: str, world: World, rate: float) -> None:
        self._world = world
        self._rate = rate
        self._connections = [Connection(url, key) for _ in range(CONNECTIONS)]
        self._stopped = False
        self._sent = 0
        self._waits_s: list[float] = []
        self.errors = 0
        self.examples: list[str] = []
        self.answers: dict[str, Counter[int]] = {}
        """The number of answers by operation and status; status 0: no answer."""

    async def run(self) -> None:
        """Call until `stop`."""
        began = time.monotonic()
        try:
            async with asyncio.TaskGroup() as group:
                for connection in self._connections:
                    group.create_task(self._call(connection, began))
        finally:
            for connection in self._connections:
                await connection.close()

    def stop(self) -> None:
        """Let each connection end its call, and send no other."""
        self._stopped = True

    def take_waits(self) -> list[float]:
        """Return the waits for answers since the last time, in seconds."""
        waits_s, self._waits_s = self._waits_s, []
        return waits_s

    async def _call(self, connection: Connection, began: float) -> None:
        while not self._stopped:
            due = began + self._sent / self._rate
            self._sent += 1
            late = due < time.monotonic()
            if not late:
                await asyncio.sleep(due - time.monotonic())
                if self._stopped:
                    return
            started = due if late else time.monotonic()
            await self._make(connection)
            self._waits_s.append(time.monotonic() - started)

    async def _make(self, connection: Connection) -> None:
        kind, request = choose(self._world)
        try:
            answer = await connection.call(request)
        except NO_ANSWER as error:
            answer = Answer(0, repr(error).encode())
        self.answers.setdefault(kind.operation, Counter())[answer.status] += 1
        if answer.status not in kind.expected:
            self.errors += 1
            if len(self.examples) < EXAMPLES:
                text = answer.body[:500].decode(errors="replace")
                self.examples.append(f"{request.method} {request.path}: {answer.status} {text}")
