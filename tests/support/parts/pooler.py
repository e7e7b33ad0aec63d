"""A PgBouncer for one test, installed or in Docker, in front of one Postgres."""

import re
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from urllib.parse import urlsplit

from deploy.local.containers import Tool, tool
from deploy.local.process import UNPRIVILEGED, Part, free_port, is_free

NOTHING: Mapping[str, str] = MappingProxyType({})
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
KEEPS_STATEMENTS_SINCE = (1, 21)


def can_keep_statements() -> bool:
    """Whether this PgBouncer can keep prepared statements in transaction mode."""
    command = [*tool("pgbouncer"), "--version"]
    told = subprocess.run(command, capture_output=True, text=True, check=True)
    version = re.search(r"PgBouncer (\d+)\.(\d+)", told.stdout)
    assert version, told.stdout
    return (int(version[1]), int(version[2])) >= KEEPS_STATEMENTS_SINCE


class Pooler(Part):
    """A PgBouncer; `url` is the database's URL through it.

    Args:
        database: the URL of the database.
        mode: `transaction` or `session`.
        statements: max_prepared_statements in transaction mode; 0: prepared statements are not supported.
        settings: other settings of PgBouncer.
    """

    def __init__(
        self,
        database: str,
        mode: str,
        statements: int = 0,
        settings: Mapping[str, str] = NOTHING,
    ) -> None:
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
            + (f"max_prepared_statements = {statements}\n" if can_keep_statements() else "")
            + "".join(f"{name} = {value}\n" for name, value in settings.items())
        )
        self._process = Tool(
            "pgbouncer", [str(configuration)], self._home / "log", user=UNPRIVILEGED
        )

    def start(self) -> None:
        """Start PgBouncer; return when it listens."""
        self._process.start()
        self._process.wait_ready(lambda: not is_free(self._port), timeout_s=60)

    def close(self) -> None:
        """Kill PgBouncer and delete its files."""
        self._process.end(signal.SIGKILL)
        shutil.rmtree(self._home)
