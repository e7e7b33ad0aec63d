"""A child process: its output goes to a log file, and on Linux it ends with its parent."""

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
# Below Linux's range for outgoing connections (from 32768). A client's connection could otherwise get the
# port of a server that is restarting.
PORTS = range(15000, 32000)
# For programs that refuse to run as root.
UNPRIVILEGED = 65534 if os.geteuid() == 0 else None
_PR_SET_PDEATHSIG = 1
_given: set[int] = set()


class LocalError(Exception):
    """A server or a program could not be found or started; the text is shown to the user."""


class Process:
    """A program; `start` may be called again after it has ended.

    Linux ends the program when the *thread* that started it ends, so start it from a thread that stays.
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
        """The process id; LocalError if the program was never started."""
        if self._popen is None:
            message = f"{self.name} has not been started"
            raise LocalError(message)
        return self._popen.pid

    @property
    def running(self) -> bool:
        """Whether the program was started and has not ended."""
        return self._popen is not None and self._popen.poll() is None

    def start(self) -> None:
        """Start the program in a session of its own: the terminal's SIGINT (Ctrl-C) does not reach it."""
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
        """Return when `ready` is true; LocalError with the log if the program ends or the time is over."""
        deadline = time.monotonic() + timeout_s
        while not ready():
            if not self.running:
                raise LocalError(self.how_it_ended())
            if time.monotonic() > deadline:
                message = f"{self.name} is not ready after {timeout_s:.0f} s\n{self.log_tail()}"
                raise LocalError(message)
            time.sleep(0.02)

    def send(self, sig: signal.Signals) -> None:
        """Send a signal if the program still runs."""
        if self._popen is not None and self.running:
            self._popen.send_signal(sig)

    def end(self, sig: signal.Signals = signal.SIGTERM, *, timeout_s: float = 30) -> int | None:
        """Send the signal and wait; after timeout_s, send SIGKILL. Return the exit code."""
        if self._popen is None:
            return None
        self.send(sig)
        try:
            return self._popen.wait(timeout_s)
        except subprocess.TimeoutExpired:
            self._popen.kill()
            return self._popen.wait()

    def how_it_ended(self) -> str:
        """Return the exit code and the last log lines, as text."""
        code = None if self._popen is None else self._popen.poll()
        return f"{self.name} ended with code {code}; its last log lines:\n{self.log_tail()}"

    def log_tail(self) -> str:
        """Return the last lines of the log."""
        lines = self.log.read_text(errors="replace").splitlines()
        return "\n".join(f"  | {line}" for line in lines[-LOG_LINES_SHOWN:])


class Part(ABC):
    """A server and its data: a context manager that starts it, and ends it and deletes the data."""

    @abstractmethod
    def start(self) -> None:
        """Start the processes that are down, on their data; return when they serve."""

    @abstractmethod
    def close(self) -> None:
        """Kill the processes and delete the data."""

    def __enter__(self) -> Self:
        """Start, and close after a failure."""
        try:
            self.start()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        """Close."""
        self.close()


def free_port() -> int:
    """Return a loopback port that nothing listens on; each call in any process returns another one."""
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
    abstract socket has one owner in a network namespace. Systems other than Linux have no such sockets.
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
    """Print a line for the user on standard error; standard output belongs to the caller."""
    print(text, file=sys.stderr, flush=True)


def _end_with_parent() -> None:
    """Run in the child before exec: Linux sends SIGTERM to the child when the parent's thread ends."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
