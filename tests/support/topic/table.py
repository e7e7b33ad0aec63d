"""The subscriber of deploy/subscriber: a process that keeps a table of the active links."""

import signal
import sys
from pathlib import Path
from typing import Self
from uuid import uuid4

import asyncpg

from deploy.local.process import Process
from tests.support.topic import topics
from tests.support.topic.subscriber import ACTIVE, ActiveLink
from tests.support.waiting import until

ROWS = "SELECT id::text, workspace_id::text, document_id, entity_type, entity_id, role FROM links"
POSITIONS = "SELECT partition, next_offset FROM positions"
MADE = "SELECT to_regclass('positions') IS NOT NULL"
PAST_S = 90
"""How long a member may wait for its partitions: Kafka ends a killed member's session after 10 s."""


class Member:
    """`python -m deploy.subscriber`, as a context manager that leaves nothing running.

    Without `instance` a member that is killed keeps its partitions until Kafka ends its session.
    """

    def __init__(
        self, database: str, kafka: str, topic: str, log: Path, instance: str | None = None
    ) -> None:
        self._env = {
            "SUBSCRIBER_DATABASE_URL": database,
            "SUBSCRIBER_TOPIC": topic,
            "SUBSCRIBER_GROUP": topic,
            "KAFKA_BOOTSTRAP_SERVERS": kafka,
            **({"SUBSCRIBER_INSTANCE": instance} if instance else {}),
        }
        self._log = log / f"subscriber-{uuid4().hex}"
        self._process = self._program()

    def _program(self, *arguments: str, **env: str) -> Process:
        command = [sys.executable, "-m", "deploy.subscriber", *arguments]
        return Process("subscriber", command, self._log, env={**self._env, **env})

    def __enter__(self) -> Self:
        """Start the member."""
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        """Kill the member."""
        self._process.end(signal.SIGKILL)

    def start(self) -> None:
        """Start the member, perhaps again."""
        self._process.start()

    def end(self, number: signal.Signals = signal.SIGTERM) -> int | None:
        """Send a signal and return the exit code."""
        return self._process.end(number)

    @property
    def running(self) -> bool:
        """Whether the process runs."""
        return self._process.running

    def output(self) -> str:
        """Return what the member and its commands have printed."""
        return self._log.read_text() if self._log.exists() else ""

    def given(self) -> list[str]:
        """Return a line for each time that the member has been given a partition."""
        return [each for each in self.output().splitlines() if "reading from" in each]

    async def command(self, *arguments: str, **env: str) -> int | None:
        """Run another command with the member's settings; return its exit code."""
        program = self._program(*arguments, **env)
        program.start()

        async def ended() -> bool:
            return not program.running

        await until(ended)
        return program.end()

    async def ended(self) -> int | None:
        """Return the exit code once the process has ended by itself."""

        async def over() -> bool:
            return not self.running

        await until(over)
        return self._process.end()


async def active(connection: asyncpg.Connection) -> set[ActiveLink]:
    """Return the subscriber's table."""
    return {ActiveLink(*row) for row in await connection.fetch(ROWS)}


async def expected(connection: asyncpg.Connection) -> set[ActiveLink]:
    """Return the active links of the service."""
    return {ActiveLink(*row) for row in await connection.fetch(ACTIVE)}


async def read_up_to_the_end(
    connection: asyncpg.Connection, kafka: str, topic: str, member: Member
) -> None:
    """Return once the table has applied each record that the topic has now."""
    records = await topics.read_all(kafka, topic)
    lasts = {record.partition: record.offset for record in records}

    async def there() -> bool:
        assert member.running, member.output()
        if not await connection.fetchval(MADE):
            return False
        positions = dict(map(tuple, await connection.fetch(POSITIONS)))
        return all(positions.get(each, 0) > last for each, last in lasts.items())

    try:
        await until(there, PAST_S)
    except TimeoutError:
        raise AssertionError(member.output()[-3000:]) from None
