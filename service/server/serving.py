"""Running the app under uvicorn, in one process or several."""

import logging
import os
import resource
import shutil
import signal
import socket
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Final, NoReturn

import uvicorn
from uvicorn.config import STARTUP_FAILURE
from uvicorn.supervisors import Multiprocess

from service.edge.gate.cors import Cors
from service.logs import get_logger
from service.server import accepting
from service.server.protocol import LimitedProtocol, Limits
from service.settings import SHARED_FOLDER, Settings
from service.stopping import FINISH_SIGNAL, stop_signals

log = get_logger(__name__)

OTHER_FILES: Final = 100
"""Open files besides the connections of callers and of the pool: modules, Redis, refused callers."""
GRACE_S: Final = 20
"""Time for the requests in flight after the drain: more than the 15 s in which a write is answered."""
COUNTERS_BYTES: Final = 1 << 20
"""Free disk space for the metrics of one worker: more than its files grow to. The files are mapped into
memory. On a full disk, the kernel would end the worker with SIGBUS at the first write to a new page."""
SHARED_MEMORY: Final = Path("/dev/shm")  # noqa: S108 - the folder made in it has a random name
"""Containers have this folder even if their root file system is read-only."""


class CannotServeError(Exception):
    """The machine lacks what the service needs. The text says what it is, and what to do."""


def serve(settings: Settings) -> None:
    """Serve until SIGTERM or SIGINT; exit the process with 1 if a worker cannot start.

    Raises:
        CannotServeError: the address is in use, or no folder can be shared by several processes.
    """
    if settings.links_rate_limit_storage == "memory":  # other machines may serve too
        level = logging.WARNING if settings.links_workers > 1 else logging.INFO
        log.log(level, "rate_limits.each_process_on_its_own", workers=settings.links_workers)
    connections = _allow_open_files(settings)
    os.environ.pop(SHARED_FOLDER, None)  # a parent process may have set it
    signal.signal(signal.SIGTERM, _end)  # uvicorn raises the signal again at its end
    listeners = _listen(settings.links_host, settings.links_port)
    config = _config(settings, connections)
    if settings.links_workers == 1:
        server = uvicorn.Server(config)
        try:
            server.run(listeners)
        except SystemExit as end:  # uvicorn has its own exit codes
            raise SystemExit(1 if end.code else 0) from None
    else:
        with _shared_folder(settings.links_workers) as folder:
            accepting.Counts.make(folder)
            os.environ[SHARED_FOLDER] = str(folder)  # the workers inherit it
            ProcessSupervisor(config, listeners).run()


class ProcessSupervisor(Multiprocess):
    """uvicorn's supervisor of the worker processes, but it passes signals on at once, not twice a second."""

    def __init__(self, config: uvicorn.Config, sockets: list[socket.socket]) -> None:
        super().__init__(config, sockets)
        self._stopping = False
        for number in stop_signals():
            signal.signal(number, self._pass_on)

    def run(self) -> None:
        """Run the workers until a signal stops them; exit with 1 if one of them cannot start."""
        super().run()
        if any(process.exitcode == STARTUP_FAILURE for process in self.processes):
            raise SystemExit(1)

    def terminate_all(self) -> None:
        """Tell every worker to stop, and close the listening sockets, which the workers also hold."""
        super().terminate_all()
        for listener in self.sockets:
            listener.close()

    def _pass_on(self, *_: object) -> None:
        number = FINISH_SIGNAL if self._stopping else signal.SIGTERM
        self._stopping = True
        self.signal_queue.append(signal.SIGTERM)
        for process in self.processes:
            if process.pid is not None and process.exitcode is None:
                with suppress(ProcessLookupError):
                    os.kill(process.pid, number)


def _config(settings: Settings, connections: int) -> uvicorn.Config:
    limits = Limits(settings.links_request_timeout, connections)
    cors = Cors(settings.cors_origins) if settings.cors_origins else None
    return uvicorn.Config(
        "service.app:create_app",
        factory=True,
        workers=settings.links_workers,
        loop="service.server.accepting:SharingLoop",
        http=partial(LimitedProtocol, limits=limits, cors=cors),  # type: ignore[arg-type] # called with the class's arguments
        ws="none",
        timeout_keep_alive=settings.links_idle_timeout,
        log_config=None,
        access_log=False,
        server_header=False,
        proxy_headers=False,  # nothing here depends on the client's address
        timeout_graceful_shutdown=GRACE_S,
    )


def _listen(host: str, port: int) -> list[socket.socket]:
    """Bind every address of the host.

    Raises:
        CannotServeError: an address is in use, or not of this machine.
    """
    try:
        listeners = accepting.bind(host, port)
    except OSError as error:
        raise CannotServeError(
            f"cannot listen on {_url(host, port)}: {error.strerror}; set LINKS_HOST and LINKS_PORT"
        ) from error
    urls = [_url(*listener.getsockname()[:2]) for listener in listeners]
    log.info("http.listening", urls=urls)
    return listeners


def _url(host: str, port: int) -> str:
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


@contextmanager
def _shared_folder(workers: int) -> Iterator[Path]:
    """Yield a new folder for the counts and metrics that the worker processes share.

    Raises:
        CannotServeError: no folder is writable and has enough free space.
    """
    parents: list[Path | None] = [None, SHARED_MEMORY]  # None: TMPDIR, or else /tmp
    for parent in parents:
        with suppress(OSError):
            folder = tempfile.TemporaryDirectory(prefix="document-links-workers-", dir=parent)
            if shutil.disk_usage(folder.name).free >= workers * COUNTERS_BYTES:
                break
            folder.cleanup()
    else:
        raise CannotServeError(
            f"LINKS_WORKERS={workers} needs a folder for temporary files, and none can be written "
            f"to and has {workers * COUNTERS_BYTES >> 20} MiB free: mount one at /tmp (an emptyDir "
            "on Kubernetes), or set LINKS_WORKERS=1"
        )
    with folder as name:
        yield Path(name)


def _allow_open_files(settings: Settings) -> int:
    """Raise the limit on open files as far as needed; return the number of connections that it allows."""
    connections, wanted = connections_allowed(settings)
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    most = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
    if soft != resource.RLIM_INFINITY and soft < most:
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, hard))
    if most == wanted:
        return connections
    log.warning(
        "http.fewer_connections",
        connections=connections,
        wanted=settings.links_max_connections,
        reason=f"a process may open {hard} files: raise `ulimit -n` to {wanted}",
    )
    return connections


def connections_allowed(settings: Settings) -> tuple[int, int]:
    """Return the callers' connections that the hard limit on open files allows, and the files for all."""
    others = settings.links_pool_size + OTHER_FILES
    wanted = settings.links_max_connections + others
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard == resource.RLIM_INFINITY or hard >= wanted:
        return settings.links_max_connections, wanted
    return max(hard - others, 1), wanted


def _end(*_: object) -> NoReturn:
    """Exit with 0 through SystemExit: the default action of SIGTERM would skip all clean-up."""
    raise SystemExit(0)
