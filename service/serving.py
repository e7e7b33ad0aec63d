"""Running the app under uvicorn, in one process or several."""

import logging
import os
import resource
import signal
import tempfile
from functools import partial
from pathlib import Path
from typing import NoReturn

import uvicorn

from service import accepting, logs
from service.protocol import LimitedProtocol, Limits
from service.settings import Settings

log = logging.getLogger(__name__)

OTHER_FILES = 1200
"""Besides callers' connections: those to Postgres, at most a thousand, and a few more."""
GRACE_S = 10
"""For requests in flight at SIGTERM."""


def serve(settings: Settings) -> None:
    """Serve until SIGTERM or SIGINT; exits the process with 1 if it cannot start."""
    logs.set_up(settings.links_log_level)
    if settings.links_rate_limit_storage == "memory":
        say = (
            log.warning if settings.links_workers > 1 else log.info
        )  # another machine may be there
        say("rate_limits.each_process_on_its_own", extra={"workers": settings.links_workers})
    _allow_open_files(settings.links_max_connections + OTHER_FILES)
    signal.signal(signal.SIGTERM, _end)  # uvicorn sends it once more when it has finished
    with tempfile.TemporaryDirectory(prefix="document-links-workers-") as folder:
        if settings.links_workers > 1:
            accepting.Counts.make(Path(folder))
            os.environ[accepting.SHARED_FOLDER] = folder  # for the workers: they inherit it
        try:
            _run(settings)
        except SystemExit as end:  # uvicorn has codes of its own
            raise SystemExit(1 if end.code else 0) from None


def _allow_open_files(count: int) -> None:
    """Raise the limit on open files, as far as may be: often it is 1024, and a connection is one."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft not in {resource.RLIM_INFINITY, hard} and soft < count:
        wanted = count if hard == resource.RLIM_INFINITY else min(count, hard)
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


def _run(settings: Settings) -> None:
    limits = Limits(settings.links_request_timeout, settings.links_max_connections)
    uvicorn.run(
        "service.app:create_app",
        factory=True,
        host=settings.links_host,
        port=settings.links_port,
        workers=settings.links_workers,
        loop="uvloop" if settings.links_workers == 1 else "service.accepting:SharingLoop",
        http=partial(LimitedProtocol, limits=limits),  # type: ignore[arg-type] # it is called alike
        ws="none",
        timeout_keep_alive=settings.links_idle_timeout,
        log_config=None,
        access_log=False,
        server_header=False,
        proxy_headers=False,  # nothing here depends on the client's address
        timeout_graceful_shutdown=GRACE_S,
    )


def _end(*_: object) -> NoReturn:
    """Clean up and exit with 0, where Python would be gone at once."""
    raise SystemExit(0)
