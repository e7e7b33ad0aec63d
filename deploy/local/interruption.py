"""SIGINT, SIGTERM and SIGHUP interrupt a run once: KeyboardInterrupt, but not while a child is started.

CPython runs a signal handler between any two instructions of the main thread. Two places must not raise
the exception. In a callback of fork(), such as that of `logging`, CPython prints it and drops it, so the
run would not end. Between fork() and the assignment of the Popen object, it would lose a running child.
"""

import signal
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class Interruption:
    """Whether the run was interrupted, and whether the exception is postponed."""

    def __init__(self) -> None:
        self._held = self._happened = self._due = False

    def listen(self) -> None:
        """Handle the signals, but not a SIGHUP that `nohup` ignores."""
        for number in SIGNALS:
            if number != signal.SIGHUP or signal.getsignal(number) is not signal.SIG_IGN:
                signal.signal(number, self._handle)

    @contextmanager
    def held(self) -> Iterator[None]:
        """Postpone the exception to the end of the block."""
        self._held = True
        try:
            yield
        finally:
            self._held = False
            if self._due:
                self._due = False
                raise KeyboardInterrupt

    def _handle(self, *_: object) -> None:
        """Interrupt at the first signal only: a second exception would interrupt the clean-up.

        Later signals are not set to SIG_IGN, because a child that is started now would inherit that.
        """
        if self._happened:
            return
        self._happened = True
        if not self._held:
            raise KeyboardInterrupt
        self._due = True


INTERRUPTION = Interruption()


def run_tool(
    command: Sequence[str],
    *,
    env: Mapping[str, str] | None = None,
    cwd: Path | None = None,
    user: int | None = None,
) -> subprocess.CompletedProcess[str]:
    """Run a command to its end and return its output; an exception kills it.

    `env` is the whole environment, `user` the id of its user and group; None means this process's.
    """
    process: subprocess.Popen[str] | None = None
    try:
        with INTERRUPTION.held():
            process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
                env=env,
                cwd=cwd,
                user=user,
                group=user,
                extra_groups=None if user is None else [],
            )
        output, errors = process.communicate()
    except BaseException:
        if process is not None:
            process.kill()
            process.communicate()
        raise
    return subprocess.CompletedProcess(command, process.returncode, output, errors)
