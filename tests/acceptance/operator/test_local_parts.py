"""`python -m deploy.local` starts everything with one command, and ends what it has started."""

import os
import re
import shlex
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from deploy.local.process import free_port
from tests.support.waiting import eventually

OUTSIDE = ("DATABASE_URL", "KAFKA_BOOTSTRAP_SERVERS")
READY_S = 240
END_S = 150
"""Each part that does not end by itself is killed after 30 s."""
PORT = re.compile(r"127\.0\.0\.1:(\d+)")


@contextmanager
def running(command: str, output: Path, **settings: str) -> Iterator[subprocess.Popen[bytes]]:
    """Run a command of deploy.local without the environment's own Postgres, Kafka or settings."""
    env = {name: value for name, value in os.environ.items() if name not in OUTSIDE} | settings
    with output.open("wb") as file:
        process = subprocess.Popen(
            [sys.executable, "-m", "deploy.local", command], env=env, stdout=file, stderr=file
        )
    try:
        yield process
    finally:
        process.kill()
        process.wait()


def has_printed(output: Path, text: str) -> Callable[[], bool]:
    """Whether the output has the text by now."""
    return lambda: text in output.read_text()


def listens(port: str) -> bool:
    """Whether a program listens on a loopback port."""
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", int(port))) == 0


def test_one_command_links_a_document_and_shows_its_event(
    database: str, kafka: str, topic: str, tmp_path: Path
) -> None:
    """`run` shows a link with its event and time, then the event of its curl line; Ctrl-C ends it."""
    output = tmp_path / "output"
    given = {
        "DATABASE_URL": database,
        "KAFKA_BOOTSTRAP_SERVERS": kafka,
        "OUTBOX_TOPIC": topic,
        "LINKS_PORT": str(free_port()),
    }
    with running("run", output, **given) as process:
        eventually(has_printed(output, "Ctrl-C ends all"), READY_S)
        shown = output.read_text()
        assert '"type": "document.linked"' in shown
        assert re.search(r"answered in [\d.]+ ms, the event [\d.]+ ms after that", shown)
        curl = next(line for line in shown.splitlines() if line.startswith("curl "))
        subprocess.run(shlex.split(curl), check=True, capture_output=True)
        eventually(has_printed(output, "document.linked  doc_contract → shipment"))
        process.send_signal(signal.SIGINT)
        assert process.wait(timeout=END_S) == 0
        assert not listens(given["LINKS_PORT"])


def test_parts_end_with_the_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without Docker, and with an empty PATH, Postgres and Kafka start; they end after a SIGKILL of `up`."""
    monkeypatch.setenv("PATH", "")
    monkeypatch.setenv("DOCKER_HOST", "unix:///nowhere")
    output = tmp_path / "output"
    with running("up", output) as process:
        eventually(has_printed(output, "Ctrl-C ends both"), READY_S)
        ports = PORT.findall(output.read_text())
        assert [listens(port) for port in ports] == [True, True]
        process.send_signal(signal.SIGKILL)
        eventually(lambda: not any(listens(port) for port in ports))


def test_a_part_that_fails_is_named(kafka: str, tmp_path: Path) -> None:
    """Postgres is unreachable: one message says so, and the exit code is 1."""
    output = tmp_path / "output"
    given = {
        "DATABASE_URL": f"postgresql://postgres@127.0.0.1:{free_port()}/postgres",
        "KAFKA_BOOTSTRAP_SERVERS": kafka,
    }
    with running("run", output, **given) as process:
        assert process.wait(timeout=END_S) == 1
    assert "service migrate failed" in output.read_text()
    assert "Traceback" not in output.read_text()
