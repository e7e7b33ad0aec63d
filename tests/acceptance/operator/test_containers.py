"""Both programs as in a container: a read-only root, and a user who is only a number."""

import asyncio
import os
import re
import signal
import socket
import sys
from pathlib import Path

import httpx
import pytest

from deploy.local.process import Process, free_port
from tests.support.waiting import eventually, until

LOCKED_DOWN = """
for mount in $(cut -d ' ' -f 2 /proc/mounts | grep -v -E '^/(proc|sys|dev)'); do
    mount -o remount,ro,bind "$mount"
done
[ -z "$NO_SHARED_MEMORY" ] || mount -o remount,ro,bind /dev/shm
[ -z "$FULL_DISK" ] || mount -t tmpfs -o size=64k none /var/tmp
exec setpriv --inh-caps -all --bounding-set -all --no-new-privs env -u USER -u LOGNAME -u HOME \\
    LC_ALL=C TZ=Nowhere/Bad PROMETHEUS_MULTIPROC_DIR=/nonexistent "$@"
"""
IN_A_CONTAINER = [
    *("unshare", "--user", "--map-user=12345", "--keep-caps", "--mount"),
    *("sh", "-ec", LOCKED_DOWN, "sh"),
]
"""Runs a command as a user without a name or a home, who can write only to shared memory.

The locale is C, the time zone is unknown, and another program's variable names a missing folder.
"""
AS_PROCESS_1 = ["unshare", "--user", "--map-root-user", "--pid", "--fork", "--kill-child"]
NO_FOLDER = "LINKS_WORKERS=2 needs a folder for temporary files, and none can be written to"


def contained(module: str, verb: str, tmp_path: Path, **settings: str) -> Process:
    """Return one of the programs in such a container, not started yet."""
    command = [*IN_A_CONTAINER, sys.executable, "-B", "-m", module, verb]
    return Process(f"{module} {verb}", command, tmp_path / f"{module}.log", env=settings)


async def ready(url: str) -> bool:
    """Whether the program's /readyz says that it is ready."""
    async with httpx.AsyncClient() as client:
        try:
            return (await client.get(f"{url}/readyz")).is_success
        except httpx.TransportError:
            return False


async def serves(program: Process, port: int, stop: signal.Signals = signal.SIGTERM) -> None:
    """Start a program, wait until it is ready, and expect exit code 0 after a signal."""
    program.start()
    try:

        async def is_ready() -> bool:
            assert program.running, program.how_it_ended()
            return await ready(f"http://127.0.0.1:{port}")

        await until(is_ready)
    finally:
        code = await asyncio.to_thread(program.end, stop)
    assert code == 0, program.log_tail()


def test_the_lock_down_holds(tmp_path: Path) -> None:
    """The user has the id 12345 and no name, and can write neither to / nor to /tmp."""
    look = (
        "import os, pwd, tempfile; print(os.getuid());"
        "print(*(os.access(folder, os.W_OK) for folder in ('/', '/tmp', '/var/tmp', '.')));"
        "print([user for user in pwd.getpwall() if user.pw_uid == os.getuid()])"
    )
    log = tmp_path / "look.log"
    looking = Process("look", [*IN_A_CONTAINER, sys.executable, "-c", look], log)
    looking.start()
    assert looking.end(signal.SIGCONT) == 0
    assert log.read_text().splitlines() == ["12345", "False False False False", "[]"]


@pytest.mark.parametrize("workers", ["1", "2"])
async def test_the_service_needs_no_file_and_no_name(
    database: str, tmp_path: Path, workers: str
) -> None:
    """One process needs no folder. Several use one in /dev/shm if there is no other."""
    port = free_port()
    settings = {"LINKS_PORT": str(port), "LINKS_WORKERS": workers, "LINKS_DRAIN_SECONDS": "0"}
    program = contained("service", "serve", tmp_path, DATABASE_URL=database, **settings)
    await serves(program, port)


async def test_the_worker_needs_no_file_and_no_name(
    database: str, kafka: str, topic: str, tmp_path: Path
) -> None:
    """The worker starts, leads and stops without a folder, a home or a user name."""
    port = free_port()
    settings = {
        "DATABASE_URL": database,
        "KAFKA_BOOTSTRAP_SERVERS": kafka,
        "OUTBOX_TOPIC": topic,
        "OUTBOX_HTTP_PORT": str(port),
    }
    await serves(contained("outbox_worker", "run", tmp_path, **settings), port)


@pytest.mark.parametrize(("module", "verb"), [("service", "serve"), ("outbox_worker", "run")])
def test_a_url_without_a_user_is_refused(tmp_path: Path, module: str, verb: str) -> None:
    """Without a user in the URL the programs exit with 2, and name the variable and the missing part."""
    url = "postgresql://127.0.0.1/links"
    env = {"DATABASE_URL": url, "KAFKA_BOOTSTRAP_SERVERS": "127.0.0.1:1"}
    program = contained(module, verb, tmp_path, **env)
    program.start()
    assert program.end(signal.SIGCONT, timeout_s=60) == 2
    (line,) = program.log.read_text().splitlines()
    assert "DATABASE_URL: user: " in line


@pytest.mark.parametrize("disk", [{}, {"FULL_DISK": "yes", "TMPDIR": "/var/tmp"}])  # noqa: S108 - its own
def test_several_processes_without_a_folder(
    database: str, tmp_path: Path, disk: dict[str, str]
) -> None:
    """Without a writable folder with free space, several processes exit with 1 and say what to mount."""
    settings = {"LINKS_PORT": str(free_port()), "LINKS_WORKERS": "2", "NO_SHARED_MEMORY": "yes"}
    settings |= disk
    program = contained("service", "serve", tmp_path, DATABASE_URL=database, **settings)
    program.start()
    assert program.end(signal.SIGCONT, timeout_s=60) == 1
    line = program.log.read_text().splitlines()[-1]
    assert line.startswith(NO_FOLDER)
    assert "emptyDir" in line


@pytest.mark.parametrize(
    "stopped",
    [
        (module, number)
        for module in ("service", "outbox_worker")
        for number in (signal.SIGHUP, signal.SIGINT)
    ],
)
async def test_closed_standard_streams_and_a_closed_terminal(
    database: str, kafka: str, topic: str, tmp_path: Path, stopped: tuple[str, signal.Signals]
) -> None:
    """A program without standard streams serves, and stops cleanly when its terminal is closed.

    SIGINT stops the program too, although a shell lets its background jobs ignore SIGINT.
    """
    module, number = stopped
    port = str(free_port())
    env = {"DATABASE_URL": database, "LINKS_PORT": port, "LINKS_DRAIN_SECONDS": "0"}
    verb = "serve"
    if module == "outbox_worker":
        env = {"DATABASE_URL": database, "KAFKA_BOOTSTRAP_SERVERS": kafka}
        env |= {"OUTBOX_TOPIC": topic, "OUTBOX_HTTP_PORT": port}
        verb = "run"
    closed = ["sh", "-c", 'trap "" INT; exec "$@" <&- >&- 2>&-', "sh"]
    program = Process(
        module, [*closed, sys.executable, "-m", module, verb], tmp_path / "out.log", env=env
    )
    await serves(program, int(port), number)


def handles_sigterm(parent: Process) -> int | None:
    """Return the id of a process' child once the child handles SIGTERM."""
    child = Path(f"/proc/{parent.pid}/task/{parent.pid}/children").read_text().strip()
    if not child:
        return None
    caught = re.search(r"SigCgt:\s*(\w+)", Path(f"/proc/{child}/status").read_text())
    assert caught
    return int(child) if int(caught[1], 16) >> (signal.SIGTERM - 1) & 1 else None


@pytest.mark.parametrize(("module", "verb"), [("service", "serve"), ("outbox_worker", "run")])
def test_the_first_process_ends_at_a_signal_while_it_starts(
    tmp_path: Path, module: str, verb: str
) -> None:
    """Process 1 of a container ends at a signal during its imports, although the kernel ignores it there."""
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"postgresql://nobody@127.0.0.1:{silent.getsockname()[1]}/none"
        env = {"DATABASE_URL": url, "KAFKA_BOOTSTRAP_SERVERS": "127.0.0.1:1", "LINKS_PORT": "0",
               "OUTBOX_HTTP_PORT": "0"}  # fmt: skip
        command = [*AS_PROCESS_1, sys.executable, "-m", module, verb]
        program = Process(module, command, tmp_path / "out.log", env=env)
        program.start()
        eventually(lambda: handles_sigterm(program))
        os.kill(handles_sigterm(program) or 0, signal.SIGTERM)
        assert program.end(signal.SIGCONT) == 128 + signal.SIGTERM
    assert program.log.read_text() == ""


@pytest.mark.parametrize("module", ["service", "outbox_worker"])
def test_no_import_keeps_the_first_process_alive(tmp_path: Path, module: str) -> None:
    """Process 1 ends at a signal also during an import of code that catches every exception."""
    code = f"""
import {module}, signal
try:
    signal.raise_signal(signal.SIGTERM)
except BaseException:
    print("went on")
"""
    program = Process(module, [*AS_PROCESS_1, sys.executable, "-c", code], tmp_path / "out.log")
    program.start()
    assert program.end(signal.SIGCONT) == 128 + signal.SIGTERM
    assert program.log.read_text() == ""


async def test_a_service_whose_log_nobody_reads(database: str) -> None:
    """Hundreds of requests are answered although the pipe for the log is full."""
    port = free_port()
    env = {
        "DATABASE_URL": database,
        "LINKS_PORT": str(port),
        "LINKS_LOG_LEVEL": "debug",
        "LINKS_DRAIN_SECONDS": "0",
    }
    unread, log = os.pipe()
    command = [sys.executable, "-m", "service", "serve"]
    process = await asyncio.create_subprocess_exec(*command, env=os.environ | env, stderr=log)
    os.close(log)
    try:
        await until(lambda: ready(f"http://127.0.0.1:{port}"))
        async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}", timeout=30) as client:
            for _ in range(600):
                assert (await client.get("/healthz")).status_code == 200
    finally:
        process.send_signal(signal.SIGTERM)
        code = await process.wait()
        os.close(unread)
    assert code == 0
