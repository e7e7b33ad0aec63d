"""The files of a Postgres: copied, and put back in place of the present ones."""

import shutil
import subprocess
from pathlib import Path

from deploy.local.postgres import PostgresServer


def base_backup(server: PostgresServer, folder: Path) -> None:
    """Copy the files of a running server into a new folder."""
    subprocess.run(
        [server.bindir / "pg_basebackup", "-D", folder, "-d", server.dsn(), "-c", "fast"],
        check=True, capture_output=True,
    )  # fmt: skip


def restore(folder: Path, server: PostgresServer) -> None:
    """Replace the files of a stopped server by a copy, with the same owner."""
    owner = server.data_dir.stat()
    shutil.rmtree(server.data_dir)
    shutil.copytree(folder, server.data_dir)
    for path in (server.data_dir, *server.data_dir.rglob("*")):
        shutil.chown(path, owner.st_uid, owner.st_gid)
    server.data_dir.chmod(0o700)
