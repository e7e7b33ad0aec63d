"""A PgBouncer of one's own, from the distribution, that pools one Postgres' transactions or sessions."""

import os
import shutil
import signal
import tempfile
from pathlib import Path
from urllib.parse import urlsplit

from deploy.local.process import UNPRIVILEGED, Part, Process, free_port, is_free

CONFIGURATION = """
[databases]
* = host={host} port={port} user={user}
[pgbouncer]
listen_addr = 127.0.0.1
listen_port = {listen_port}
unix_socket_dir =
auth_type = any
pool_mode = {mode}
"""


class Pooler(Part):
    """Lends by `mode`, `transaction` or `session`; `url` is the database's, through it."""

    def __init__(self, database: str, mode: str) -> None:
        there, self._port = urlsplit(database), free_port()
        self.url = there._replace(netloc=f"{there.username}@127.0.0.1:{self._port}").geturl()
        self._home = Path(tempfile.mkdtemp(prefix="pgbouncer-"))
        self._home.chmod(0o755)
        configuration = self._home / "pgbouncer.ini"
        configuration.write_text(
            CONFIGURATION.format(
                host=there.hostname,
                port=there.port,
                user=there.username,
                listen_port=self._port,
                mode=mode,
            )
        )
        self._process = Process(
            "PgBouncer",
            ["pgbouncer", str(configuration)],
            self._home / "log",
            env={"PATH": f"{os.environ['PATH']}:/usr/sbin"},  # where Debian has it
            user=UNPRIVILEGED,
        )

    def start(self) -> None:
        """Start it; return when it listens."""
        self._process.start()
        self._process.wait_ready(lambda: not is_free(self._port), timeout_s=30)

    def close(self) -> None:
        """End it."""
        self._process.end(signal.SIGKILL)
        shutil.rmtree(self._home)
