"""The changes of one document, in a file."""

import json
import signal
import sys
from pathlib import Path
from typing import Any

import pytest

from deploy.local.process import Process
from tests.acceptance.subscriber.conftest import Stage
from tests.support.relay import links
from tests.support.topic.events import event_of
from tests.support.waiting import until

KEY = f"{links.WORKSPACE}/doc_1"
VERSIONS = 6


def changes(file: Path) -> list[dict[str, Any]]:
    """Return the lines of the file that are complete."""
    written = file.read_bytes() if file.exists() else b""
    return [json.loads(line) for line in written.split(b"\n")[:-1]]


@pytest.fixture
def program(stage: Stage) -> Process:
    """Return the program, not started yet; it writes the file `changes`."""
    command = [sys.executable, "deploy/subscriber/changes.py", KEY, str(stage.logs / "changes")]
    env = {"KAFKA_BOOTSTRAP_SERVERS": stage.kafka, "SUBSCRIBER_TOPIC": stage.topic}
    return Process("changes", command, stage.logs / "changes.log", env=env)


async def test_each_change_is_written_once(stage: Stage, program: Process) -> None:
    """Killed between changes, and with an incomplete line, the program goes on with the next change."""
    file = stage.logs / "changes"
    await links.seed(stage.connection, 2, 3)

    async def reaches(versions: int) -> None:
        async def written() -> bool:
            assert program.running, program.how_it_ended()
            return len(changes(file)) >= versions

        await until(written)

    with stage.worker(partitions=2) as worker:
        await worker.leading()
        for last in (VERSIONS // 2, VERSIONS):
            program.start()
            while (
                await stage.connection.fetchval("SELECT version FROM documents WHERE id = 'doc_1'")
                < last
            ):
                await links.toggle(stage.connection, "doc_2", "1")
                await links.toggle(stage.connection, "doc_1", "1")
            await reaches(last)
            program.end(signal.SIGKILL)
            with file.open("ab") as torn:
                torn.write(b'{"partition": 0, "off')
    written = changes(file)
    assert [each["version"] for each in written] == list(range(1, VERSIONS + 1))
    rows = await stage.connection.fetch(
        "SELECT payload FROM outbox WHERE key = $1 ORDER BY position", KEY
    )
    assert [each["event"] for each in written] == [event_of(row[0]) for row in rows]
