"""A program that we start: its output goes to a log file, and it never outlives us."""

import ctypes
import os
import random
import signal
import socket
import subprocess
import sys
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Self

from deploy.local.interruption import INTERRUPTION

LOG_LINES_SHOWN = 15
# Below Linux's range for outgoing connections (from 32768), so that no client
# sits on the port of a server that is down for a moment.
PORTS = range(15000, 32000)
# For programs that refuse to run as root.
UNPRIVILEGED = 65534 if os.geteuid() == 0 else None
_PR_SET_PDEATHSIG = 1
_given: set[int] = set()


class LocalError(Exception):
    """A part could not be found or started; the text is for the user as it is."""


class Process:
    """One running program; `start` may be called again after it has ended.

    Linux ends it when the *thread* that started it ends: start it from one that
    stays.
    """

    def __init__(
        self,
        name: str,
        command: Sequence[str],
        log: Path,
        *,
        env: Mapping[str, str] | None = None,
        user: int | None = None,
    ) -> None:
        self.name = name
        self.log = log
        self._command = list(command)
        self._env = env
        self._user = user
        self._popen: subprocess.Popen[bytes] | None = None

    @property
    def pid(self) -> int:
        """The process id; raises LocalError where it was never started."""
        if self._popen is None:
            message = f"{self.name} has not been started"
            raise LocalError(message)
        return self._popen.pid

    @property
    def running(self) -> bool:
        """Whether it was started and has not ended."""
        return self._popen is not None and self._popen.poll() is None

    def start(self) -> None:
        """Start it in a session of its own, so that Ctrl-C reaches us and not it."""
        with self.log.open("ab") as log, INTERRUPTION.held():
            self._popen = subprocess.Popen(
                self._command,
                env=None if self._env is None else {**os.environ, **self._env},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
                preexec_fn=_end_with_parent,  # noqa: PLW1509 - no other way to ask the kernel for it
                user=self._user,
                group=self._user,
                extra_groups=None if self._user is None else [],
            )

    def wait_ready(self, ready: Callable[[], bool], *, timeout_s: float) -> None:
        """Return when `ready` says so; LocalError with the log when it ends or time is up."""
        deadline = time.monotonic() + timeout_s
        while not ready():
            if not self.running:
                raise LocalError(self.obituary())
            if time.monotonic() > deadline:
                message = f"{self.name} is not ready after {timeout_s:.0f} s\n{self.log_tail()}"
                raise LocalError(message)
            time.sleep(0.02)

    def send(self, sig: signal.Signals) -> None:
        """Send a signal, if it still runs."""
        if self._popen is not None and self.running:
            self._popen.send_signal(sig)

    def end(self, sig: signal.Signals = signal.SIGTERM, *, timeout_s: float = 30) -> int | None:
        """Send the signal and wait; SIGKILL when that takes too long. Return the exit code."""
        if self._popen is None:
            return None
        self.send(sig)
        try:
            return self._popen.wait(timeout_s)
        except subprocess.TimeoutExpired:
            self._popen.kill()
            return self._popen.wait()

    def obituary(self) -> str:
        """Say how it ended, with its last log lines."""
        code = None if self._popen is None else self._popen.poll()
        return f"{self.name} ended with code {code}; its last words:\n{self.log_tail()}"

    def log_tail(self) -> str:
        """Return the last lines of its log."""
        lines = self.log.read_text(errors="replace").splitlines()
        return "\n".join(f"  | {line}" for line in lines[-LOG_LINES_SHOWN:])


class Part(ABC):
    """Programs and their data: as a context manager it starts, and at the end nothing is left."""

    @abstractmethod
    def start(self) -> None:
        """Start what is down, on the data there is; return when it serves."""

    @abstractmethod
    def close(self) -> None:
        """End it at once and delete its data."""

    def __enter__(self) -> Self:
        """Start it."""
        try:
            self.start()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        """Leave nothing."""
        self.close()


def free_port() -> int:
    """Return a loopback port that nothing listens on, another one at each call in any process."""
    for port in random.sample(PORTS, 200):
        if port not in _given and is_free(port) and claim(port):
            _given.add(port)
            return port
    message = "no free port was found on 127.0.0.1"
    raise LocalError(message)


def is_free(port: int) -> bool:
    """Whether nothing listens on this loopback port."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True


def claim(port: int) -> bool:
    """Take a port until this process ends; False if another run has taken it.

    Two runs that start at once both find the port free, because neither listens on it yet. An
    abstract socket has one owner in a network namespace. Other systems than Linux have none.
    """
    if sys.platform != "linux":
        return True
    owner = socket.socket(socket.AF_UNIX)
    try:
        owner.bind(f"\0document-links port {port}")
    except OSError:
        owner.close()
        return False
    owner.detach()  # the descriptor stays open until the process ends
    return True


def say(text: str) -> None:
    """Tell the user what is going on; standard output is left to the caller."""
    print(text, file=sys.stderr, flush=True)


def _end_with_parent() -> None:
    """In the child, before exec: ask Linux to end it when its parent dies."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
