"""Running the app under uvicorn, in one process or several."""

import os
import tempfile

import uvicorn

from service import logs
from service.settings import Settings

GRACE_S = 10
"""For requests in flight at SIGTERM."""


def serve(settings: Settings) -> None:
    """Serve until SIGTERM or SIGINT; exits the process with 1 if it cannot start."""
    logs.set_up(settings.links_log_level)
    with tempfile.TemporaryDirectory(prefix="document-links-metrics-") as folder:
        if settings.links_workers > 1:
            os.environ["PROMETHEUS_MULTIPROC_DIR"] = (
                folder  # before the workers start: they inherit it
            )
        uvicorn.run(
            "service.app:create_app",
            factory=True,
            host=settings.links_host,
            port=settings.links_port,
            workers=settings.links_workers,
            loop="uvloop" if settings.links_workers == 1 else "service.accepting:TurnTakingLoop",
            http="httptools",
            log_config=None,
            access_log=False,
            server_header=False,
            proxy_headers=False,  # nothing here depends on the client's address
            timeout_graceful_shutdown=GRACE_S,
        )
