"""`python -m deploy.local`: what it starts ends with it, and what is missing is named."""

import os
import re
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from tests.waiting import eventually

OUTSIDE = ("DATABASE_URL", "KAFKA_BOOTSTRAP_SERVERS")
UP = [sys.executable, "-m", "deploy.local", "up"]


@contextmanager
def running_parts() -> Iterator[tuple[subprocess.Popen[str], list[int]]]:
    """Yield `up` as a process, and the ports of the parts that it says it started."""
    env = {name: value for name, value in os.environ.items() if name not in OUTSIDE}
    with subprocess.Popen(UP, env=env, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        try:
            lines = [process.stdout.readline() for _ in OUTSIDE]
            yield process, [int(port) for port in re.findall(r"127\.0\.0\.1:(\d+)", "".join(lines))]
        finally:
            process.terminate()


def listens(port: int) -> bool:
    """Whether somebody listens on a loopback port."""
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGKILL])
def test_what_it_started_ends_with_it(how: signal.Signals) -> None:
    """Postgres and Kafka are gone after a SIGTERM, and even after a SIGKILL."""
    with running_parts() as (process, ports):
        assert len(ports) == 2
        assert all(listens(port) for port in ports)
        process.send_signal(how)
        process.wait(timeout=30)
        eventually(lambda: not any(listens(port) for port in ports), timeout_s=30)


def test_a_missing_broker_is_named() -> None:
    """Without Docker, Java or Maven, one message says what to install, and the exit code is 1."""
    env = {name: value for name, value in os.environ.items() if name not in OUTSIDE}
    env |= {"PATH": "", "DOCKER_HOST": "unix:///nowhere"}
    done = subprocess.run(UP, env=env, capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 1
    assert "install Java 17 or newer and Maven" in done.stderr
    assert "Traceback" not in done.stderr
