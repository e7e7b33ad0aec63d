"""`service serve` after a stop signal: it is not ready, serves during the drain, answers all, and ends."""

import asyncio
import os
import signal
import socket
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from urllib.parse import urlsplit

import httpx
import pytest

from deploy.local import programs
from deploy.local.process import is_free
from service.release import VERSION
from tests.acceptance.service.test_service_workers import children
from tests.support.waiting import eventually

DRAIN_S = 1.0
NEVER_S = 3000
ASKING = b"GET /healthz HTTP/1.1\r\nHost: test\r\n\r\n"
BODY = b'{"status":"ok","version":"%s"}' % VERSION.encode()
WORKERS = pytest.mark.parametrize("workers", ["1", "2"])


@contextmanager
def serving(
    database: str, tmp_path: Path, workers: str, drain_s: float
) -> Iterator[programs.Program]:
    """Run the service with so many processes and this drain."""
    settings = {"LINKS_WORKERS": workers, "LINKS_DRAIN_SECONDS": str(drain_s)}
    with programs.service(database, tmp_path, **settings) as service:
        yield service


def connect(service: programs.Program) -> socket.socket:
    """Open a new connection."""
    address = urlsplit(service.url)
    return socket.create_connection((address.hostname, address.port), timeout=30)


def answer(connection: socket.socket) -> bytes:
    """Return all data until the other side closes."""
    return b"".join(iter(lambda: connection.recv(65536), b""))


def is_ready(service: programs.Program) -> bool:
    """Whether /readyz on a new connection is 200; a status other than 200 and 503 is an error."""
    with httpx.Client() as client:
        reply = client.get(f"{service.url}/readyz")
    assert reply.status_code in {200, 503}
    return reply.status_code == 200


@pytest.mark.parametrize(
    ("workers", "number"), [("1", signal.SIGTERM), ("1", signal.SIGHUP), ("2", signal.SIGTERM)]
)
def test_the_drain(database: str, tmp_path: Path, workers: str, number: signal.Signals) -> None:
    """/readyz is 503 during the drain, and each call is answered, with Connection: close."""
    with serving(database, tmp_path, workers, NEVER_S) as service, ExitStack() as stack:
        kept = [stack.enter_context(httpx.Client(base_url=service.url)) for _ in range(4)]
        assert [client.get("/healthz").headers.get("connection") for client in kept] == [None] * 4
        service.send(number)
        eventually(lambda: not is_ready(service))
        for client in kept:
            reply = client.get("/healthz")
            assert (reply.status_code, reply.headers["connection"]) == (200, "close")
        assert service.end(signal.SIGTERM) == 0
    assert is_free(urlsplit(service.url).port or 0)


def test_the_drain_lasts_as_long_as_configured(database: str, tmp_path: Path) -> None:
    """One signal ends the program, but not before the end of the drain."""
    with serving(database, tmp_path, "1", DRAIN_S) as service:
        told_at = time.monotonic()
        assert service.end(signal.SIGTERM) == 0
        assert time.monotonic() - told_at >= DRAIN_S


@WORKERS
def test_a_second_signal_ends_the_drain(database: str, tmp_path: Path, workers: str) -> None:
    """After a second SIGTERM the service waits only for requests in flight, and exits with 0."""
    with serving(database, tmp_path, workers, NEVER_S) as service:
        service.send(signal.SIGTERM)
        eventually(lambda: not is_ready(service))
        with connect(service) as begun:
            begun.sendall(ASKING[:10])
            eventually(lambda: is_read(service, begun))
            service.send(signal.SIGTERM)
            eventually(lambda: "Shutting down" in service.log.read_text())
            begun.sendall(ASKING[10:])
            assert answer(begun).startswith(b"HTTP/1.1 200 ")
        assert service.end(signal.SIGCONT) == 0


def is_read(service: programs.Program, connection: socket.socket) -> bool:
    """Whether the service has accepted this connection and read all data on it."""
    _, port = connection.getsockname()
    for line in Path("/proc/net/tcp").read_text().splitlines()[1:]:
        _, local, remote, _, queues, *rest = line.split()
        ends = [int(end.rpartition(":")[2], 16) for end in (local, remote)]
        if ends == [urlsplit(service.url).port, port]:
            accepted = rest[4] != "0"  # before accept() it has no inode
            return accepted and int(queues.rpartition(":")[2], 16) == 0
    return False


@WORKERS
def test_connections_in_the_kernels_queue_are_answered(
    database: str, tmp_path: Path, workers: str
) -> None:
    """Connections that the process has not accepted yet are answered at its end, not reset."""
    with serving(database, tmp_path, workers, 0) as service, ExitStack() as stack:
        pids = [service.pid, *children(service.pid)]
        for pid in pids:
            os.kill(pid, signal.SIGSTOP)
        waiting = [stack.enter_context(connect(service)) for _ in range(40)]
        for connection in waiting[:30]:
            connection.sendall(ASKING)
        for connection in waiting[30:]:
            connection.sendall(ASKING[:10])
        for pid in pids:
            os.kill(pid, signal.SIGTERM)
            os.kill(pid, signal.SIGCONT)
        for connection in waiting[30:]:
            connection.sendall(ASKING[10:])
        assert {answer(connection)[:13] for connection in waiting} == {b"HTTP/1.1 200 "}
        assert service.end(signal.SIGCONT) == 0


def test_pipelined_requests_are_all_answered(database: str, tmp_path: Path) -> None:
    """Three pipelined requests during the drain are answered, the last one with Connection: close."""
    with serving(database, tmp_path, "1", NEVER_S) as service:
        service.send(signal.SIGTERM)
        eventually(lambda: not is_ready(service))
        with connect(service) as connection:
            connection.sendall(ASKING * 3)
            said = answer(connection)
        service.end(signal.SIGTERM)
        assert said.count(b"HTTP/1.1 200 ") == 3
        assert said.count(b"connection: close") == 1


def test_idle_connections_do_not_delay_the_end(database: str, tmp_path: Path) -> None:
    """Idle connections are closed at the end, not reset."""
    with serving(database, tmp_path, "1", 0) as service, connect(service) as silent:
        with connect(service) as answered:
            answered.sendall(ASKING)
            received = b""
            while not received.endswith(BODY):
                received += answered.recv(65536)
            service.send(signal.SIGTERM)
            assert (answer(answered), answer(silent)) == (b"", b"")
        assert service.end(signal.SIGCONT) == 0


def test_a_signal_to_the_whole_group_counts_once(database: str, tmp_path: Path) -> None:
    """A signal to every process of the group counts once, and the drain continues."""
    with serving(database, tmp_path, "2", DRAIN_S) as service:
        told_at = time.monotonic()
        os.killpg(service.pid, signal.SIGTERM)
        assert service.end(signal.SIGCONT) == 0
        assert time.monotonic() - told_at >= DRAIN_S


async def test_workers_end_without_their_supervisor(database: str, tmp_path: Path) -> None:
    """When the first process is killed, the workers end and free the port."""
    with serving(database, tmp_path, "2", 0) as service:
        await asyncio.to_thread(service.end, signal.SIGKILL)
        eventually(lambda: is_free(urlsplit(service.url).port or 0))


@pytest.mark.parametrize(("host", "workers"), [("::", "1"), ("::", "2"), ("localhost", "1")])
def test_every_address_of_the_host_is_listened_on(
    database: str, tmp_path: Path, host: str, workers: str
) -> None:
    """`::` accepts IPv4 and IPv6, with one process and with two; a name accepts on all its addresses."""
    any_of = host.replace("::", "") or None
    addresses = {
        str(found[4][0]) for found in socket.getaddrinfo(any_of, 0, type=socket.SOCK_STREAM)
    }
    assert len(addresses) == 2 or host == "localhost"
    settings = {"LINKS_HOST": host, "LINKS_WORKERS": workers}
    with programs.service(database, tmp_path, **settings) as service:
        for address in addresses:
            with socket.create_connection((address, urlsplit(service.url).port)) as connection:
                connection.sendall(ASKING)
                assert connection.recv(65536).startswith(b"HTTP/1.1 200 ")
