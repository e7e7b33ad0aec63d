"""Starts the project's two programs as processes, for `make run`, tests and benchmarks."""

import os
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import httpx

from deploy.local.interruption import run_tool
from deploy.local.process import LocalError, Process, free_port

READY_S = 60


class Program(Process):
    """A running service or worker; `url` is where it listens."""

    def __init__(
        self, module: str, verb: str, log: Path, env: Mapping[str, str], port: int
    ) -> None:
        super().__init__(f"{module} {verb}", _python(module, verb), log, env=env)
        self.url = f"http://127.0.0.1:{port}"

    def ready(self) -> bool:
        """Whether the program's /readyz answers with success."""
        try:
            return httpx.get(f"{self.url}/readyz", timeout=2).is_success
        except httpx.TransportError:
            return False


@contextmanager
def service(dsn: str, logs: Path, **settings: str) -> Iterator[Program]:
    """Run `service serve` on a migrated database, on a free port unless LINKS_PORT is given."""
    port = int(settings.get("LINKS_PORT") or free_port())
    no_drain = {"LINKS_DRAIN_SECONDS": "0"}  # no load balancer still sends requests
    env = {**no_drain, **settings, "DATABASE_URL": dsn, "LINKS_PORT": str(port)}
    with _running(Program("service", "serve", logs / "service.log", env, port)) as program:
        yield program


@contextmanager
def worker(dsn: str, bootstrap: str, logs: Path, **settings: str) -> Iterator[Program]:
    """Run `outbox_worker run`, on a free port unless OUTBOX_HTTP_PORT is given."""
    with _running(worker_program(dsn, bootstrap, logs, **settings)) as program:
        yield program


def worker_program(dsn: str, bootstrap: str, logs: Path, **settings: str) -> Program:
    """Return `outbox_worker run`, not started yet."""
    port = int(settings.get("OUTBOX_HTTP_PORT") or free_port())
    env = {
        **settings,
        "DATABASE_URL": dsn,
        "KAFKA_BOOTSTRAP_SERVERS": bootstrap,
        "OUTBOX_HTTP_PORT": str(port),
    }
    return Program("outbox_worker", "run", logs / "worker.log", env, port)


def migrate(dsn: str) -> None:
    """Apply the schema to a database."""
    _output("service", "migrate", dsn=dsn)


def create_key(dsn: str, *options: str, workspace: str = "demo") -> str:
    """Return a new key of a workspace."""
    return _output("service", "keys", "create", "--workspace", workspace, *options, dsn=dsn).strip()


@contextmanager
def _running(program: Program) -> Iterator[Program]:
    try:
        program.start()
        program.wait_ready(program.ready, timeout_s=READY_S)
        yield program
    finally:
        program.end()


def _output(*command: str, dsn: str) -> str:
    env = {**os.environ, "DATABASE_URL": dsn}
    done = run_tool(_python(*command), env=env)
    if done.returncode != 0:
        message = f"{' '.join(command)} failed with code {done.returncode}:\n{done.stderr.strip()}"
        raise LocalError(message)
    return done.stdout


def _python(module: str, *args: str) -> list[str]:
    return [sys.executable, "-m", module, *args]
