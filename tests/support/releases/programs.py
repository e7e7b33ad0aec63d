"""The programs of a release as an operator starts them, from the folder that has its code."""

import subprocess
import sys
from collections.abc import Mapping
from contextlib import ExitStack
from itertools import count
from pathlib import Path
from types import TracebackType
from typing import Self

import httpx

from deploy.local.process import Process, free_port
from tests.support.waiting import eventually

COMMAND_TIMEOUT_S = 120


class Running(Process):
    """A service or a worker at work."""

    def __init__(self, command: list[str], log: Path, env: Mapping[str, str], port: int) -> None:
        super().__init__(log.stem, command, log, env=env)
        self.url = f"http://127.0.0.1:{port}"

    def ready(self) -> bool:
        """Whether its /readyz says so."""
        assert self.running, self.how_it_ended()
        try:
            return httpx.get(f"{self.url}/readyz", timeout=5).is_success
        except httpx.TransportError:
            return False

    def leads(self) -> bool:
        """Whether this worker publishes."""
        status: str = httpx.get(f"{self.url}/readyz", timeout=5).json()["status"]
        return status == "leading"


class Release:
    """Starts programs of one release; those that still run end with the context."""

    def __init__(self, code: Path, logs: Path, env: Mapping[str, str]) -> None:
        self._env = {**env, "PYTHONPATH": str(code)}
        self._logs = logs
        self._stack = ExitStack()
        self._numbers = count(1)

    def __enter__(self) -> Self:
        """Start nothing yet."""
        return self

    def __exit__(
        self, _: type[BaseException] | None, __: BaseException | None, ___: TracebackType | None
    ) -> None:
        """End what still runs."""
        self._stack.close()

    def run(self, *command: str) -> str:
        """Run a command to its end, which must be a success; return what it printed."""
        env = {"PATH": "/usr/bin:/bin", **self._env}
        done = subprocess.run(
            self._python(*command),
            env=env,
            capture_output=True,
            text=True,
            timeout=COMMAND_TIMEOUT_S,
            check=False,
        )
        assert done.returncode == 0, f"{command}: {done.stdout}{done.stderr}"
        return done.stdout

    def start(self, services: int) -> tuple[list[Running], Running]:
        """Start so many services and a worker; return when each is ready: the worker leads, or could."""
        serving = [self._started("service", "serve", "LINKS_PORT") for _ in range(services)]
        worker = self._started("outbox_worker", "run", "OUTBOX_HTTP_PORT")
        for running in (*serving, worker):
            eventually(running.ready)
        return serving, worker

    def _started(self, module: str, verb: str, port_variable: str) -> Running:
        port = free_port()
        log = self._logs / f"{module}-{next(self._numbers)}.log"
        env = {**self._env, port_variable: str(port)}
        running = Running(self._python(module, verb), log, env, port)
        running.start()
        self._stack.callback(running.end)
        return running

    @staticmethod
    def _python(module: str, *arguments: str) -> list[str]:
        """Return the command; -P: the code is PYTHONPATH's, not that of the current folder."""
        return [sys.executable, "-P", "-m", module, *arguments]
