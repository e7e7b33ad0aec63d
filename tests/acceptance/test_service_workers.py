"""Several worker processes behind one port."""

import socket
from contextlib import ExitStack
from pathlib import Path
from urllib.parse import urlsplit

from deploy.local import programs
from tests.waiting import eventually

CONNECTIONS = 16
ESTABLISHED = "01"
STARTED = "Application startup complete"


async def test_workers_share_the_connections(database: str, tmp_path: Path) -> None:
    """Of sixteen connections that arrive together, neither of two workers is left with under four."""
    with programs.service(database, tmp_path, LINKS_WORKERS="2") as service, ExitStack() as open_:
        eventually(lambda: service.log.read_text().count(STARTED) == 2)
        address = urlsplit(service.url)
        workers = children(service.pid)
        for _ in range(CONNECTIONS):
            open_.enter_context(socket.create_connection((address.hostname, address.port)))
        eventually(lambda: sum(served(pid, address.port or 0) for pid in workers) == CONNECTIONS)
        assert min(sorted(served(pid, address.port or 0) for pid in workers)[-2:]) >= 4
        assert service.end() == 0


def children(pid: int) -> list[int]:
    """Return the processes that a process has started (one of them only tracks resources)."""
    tasks = Path(f"/proc/{pid}/task").iterdir()
    return [int(child) for task in tasks for child in (task / "children").read_text().split()]


def served(pid: int, port: int) -> int:
    """Return how many connections to a port are in a process' hands."""
    sockets = set()
    for line in Path("/proc/net/tcp").read_text().splitlines()[1:]:
        _, local, _, state, *rest = line.split()
        if state == ESTABLISHED and int(local.rpartition(":")[2], 16) == port:
            sockets.add(f"socket:[{rest[5]}]")
    return sum(str(fd.readlink()) in sockets for fd in Path(f"/proc/{pid}/fd").iterdir())
