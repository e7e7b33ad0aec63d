"""Running the app under uvicorn, in one process or several."""

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

from service import logs
from service.edge.gate.cors import Cors
from service.server import accepting
from service.server.protocol import LimitedProtocol, Limits
from service.settings import SHARED_FOLDER, Settings
from service.stopping import FINISH_SIGNAL, stop_signals

log = logs.get_logger(__name__)

OTHER_FILES: Final = 100
"""Open files besides the connections of callers and of the pool: modules, Redis, refused callers."""
GRACE_S: Final = 20
"""For requests in flight after the drain: a write is answered within 15 s."""
COUNTERS_BYTES: Final = 1 << 20
"""Room for the metrics of a worker process: more than their files grow to. They are mapped into memory,
so that the kernel ends a process with SIGBUS when it writes to a page for which the disk has no block."""
SHARED_MEMORY: Final = Path("/dev/shm")  # noqa: S108 - the folder made in it has a random name
"""Containers have it even where the root file system is read-only."""


class CannotServeError(Exception):
    """The machine refuses something; the text says what, and what to do."""


def serve(settings: Settings) -> None:
    """Serve until SIGTERM or SIGINT; exits the process with 1 if a worker cannot start.

    Raises:
        CannotServeError: the address is taken, or there is no folder for several processes.
    """
    logs.set_up(settings.links_log_level)
    if settings.links_rate_limit_storage == "memory":
        say = (
            log.warning if settings.links_workers > 1 else log.info
        )  # another machine may be there
        say("rate_limits.each_process_on_its_own", workers=settings.links_workers)
    connections = _allow_open_files(settings)
    os.environ.pop(SHARED_FOLDER, None)  # prometheus-client's, as another program had it
    signal.signal(signal.SIGTERM, _end)  # uvicorn sends it once more when it has finished
    listeners = _listen(settings.links_host, settings.links_port)
    config = _config(settings, connections)
    if settings.links_workers == 1:
        server = uvicorn.Server(config)
        try:
            server.run(listeners)
        except SystemExit as end:  # uvicorn has codes of its own
            raise SystemExit(1 if end.code else 0) from None
    else:
        with _shared_folder(settings.links_workers) as folder:
            accepting.Counts.make(folder)
            os.environ[SHARED_FOLDER] = str(folder)  # the workers inherit it
            Supervisor(config, listeners).run()


class Supervisor(Multiprocess):
    """uvicorn's worker processes. uvicorn looks for a signal twice a second; here it is passed on at once."""

    def __init__(self, config: uvicorn.Config, sockets: list[socket.socket]) -> None:
        super().__init__(config, sockets)
        self._stopping = False
        for number in stop_signals():
            signal.signal(number, self._pass_on)

    def run(self) -> None:
        """Run the workers until told to stop; exits with 1 if one of them cannot start."""
        super().run()
        if any(process.exitcode == STARTUP_FAILURE for process in self.processes):
            raise SystemExit(1)

    def terminate_all(self) -> None:
        """Tell every worker to stop; once the last of them has, nobody listens."""
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
        http=partial(LimitedProtocol, limits=limits, cors=cors),  # type: ignore[arg-type] # it is called alike
        ws="none",
        timeout_keep_alive=settings.links_idle_timeout,
        log_config=None,
        access_log=False,
        server_header=False,
        proxy_headers=False,  # nothing here depends on the client's address
        timeout_graceful_shutdown=GRACE_S,
    )


def _listen(host: str, port: int) -> list[socket.socket]:
    """Bind every address that the host's name has; `::` is every address of both families.

    Raises:
        CannotServeError: an address is taken, or is none of this machine.
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
    """Yield a new folder for what several processes count together.

    Raises:
        CannotServeError: no folder can be written to and has room.
    """
    parents: list[Path | None] = [None, SHARED_MEMORY]  # None: TMPDIR, /tmp and the like
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
    """Raise the limit on open files as far as needed; return for how many callers it is enough."""
    others = settings.links_pool_size + OTHER_FILES
    wanted = settings.links_max_connections + others
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    most = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
    if soft != resource.RLIM_INFINITY and soft < most:
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, hard))
    if most == wanted:
        return settings.links_max_connections
    connections = max(hard - others, 1)
    log.warning(
        "http.fewer_connections",
        connections=connections,
        wanted=settings.links_max_connections,
        reason=f"a process may open {hard} files: raise `ulimit -n` to {wanted}",
    )
    return connections


def _end(*_: object) -> NoReturn:
    """Clean up and exit with 0, where Python would be gone at once."""
    raise SystemExit(0)
