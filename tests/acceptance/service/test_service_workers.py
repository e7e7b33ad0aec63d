"""Several worker processes behind one port."""

import os
import signal
import socket
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from deploy.local import programs
from deploy.local.programs import Program
from tests.support.waiting import eventually

CONNECTIONS = 16
ESTABLISHED = "01"


@pytest.fixture
def service(database: str, tmp_path: Path) -> Iterator[Program]:
    """Yield a service with two workers once both accept connections."""
    with programs.service(database, tmp_path, LINKS_WORKERS="2") as service:
        with ExitStack() as probes:

            def both_accept() -> bool:
                probes.enter_context(connected(service, 1))
                return len(served(service)) > 1

            eventually(both_accept)
        eventually(lambda: not served(service))
        yield service
        assert service.end() == 0


async def test_workers_share_the_connections(service: Program) -> None:
    """Of sixteen connections that arrive together, each of two workers gets at least six."""
    with connected(service, CONNECTIONS):
        eventually(lambda: sum(served(service).values()) == CONNECTIONS)
        assert min(served(service).values()) >= 6


async def test_a_hung_worker_accepts_no_connections(service: Program) -> None:
    """While one of two workers hangs, the other accepts all connections."""
    with connected(service, 2):
        eventually(lambda: len(served(service)) == 2)
        hanging, other = served(service)
        os.kill(hanging, signal.SIGSTOP)
        try:
            with connected(service, CONNECTIONS):
                eventually(lambda: served(service).get(other) == 1 + CONNECTIONS)
        finally:
            os.kill(hanging, signal.SIGCONT)


@contextmanager
def connected(service: Program, count: int) -> Iterator[None]:
    """Keep so many connections to the service open."""
    address = urlsplit(service.url)
    with ExitStack() as connections:
        for _ in range(count):
            where = (address.hostname, address.port)
            connections.enter_context(socket.create_connection(where))
        yield


def served(service: Program) -> dict[int, int]:
    """Return the number of connections of each process that the service has started."""
    inodes = established(urlsplit(service.url).port or 0)
    counts = {pid: len(inodes & open_files(pid)) for pid in children(service.pid)}
    return {pid: count for pid, count in counts.items() if count}


def children(pid: int) -> list[int]:
    """Return the child processes of a process (one of the service's only tracks resources)."""
    tasks = Path(f"/proc/{pid}/task").iterdir()
    return [int(child) for task in tasks for child in (task / "children").read_text().split()]


def established(port: int) -> set[str]:
    """Return the inodes of the server's ends of all connections to a port."""
    sockets = set()
    for line in Path("/proc/net/tcp").read_text().splitlines()[1:]:
        _, local, _, state, *rest = line.split()
        if state == ESTABLISHED and int(local.rpartition(":")[2], 16) == port:
            sockets.add(f"socket:[{rest[5]}]")
    return sockets


def open_files(pid: int) -> set[str]:
    """Return the open files of a process, as named in /proc."""
    found = set()
    for file in Path(f"/proc/{pid}/fd").iterdir():
        with suppress(FileNotFoundError):  # closed meanwhile
            found.add(str(file.readlink()))
    return found
