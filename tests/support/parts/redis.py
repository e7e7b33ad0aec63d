"""A Redis of one's own, from the distribution: on a free port, keeping nothing on disk."""

import signal
import tempfile
from pathlib import Path
from typing import Self

from deploy.local.process import Process, free_port, is_free


class Redis:
    """A context manager that runs it; between `stop` and `start` it is down."""

    def __init__(self) -> None:
        self._port = free_port()
        self.url = f"redis://127.0.0.1:{self._port}/0"
        command = ["redis-server", "--port", str(self._port), "--bind", "127.0.0.1", "--save", ""]
        home = Path(tempfile.mkdtemp(prefix="redis-"))
        self._process = Process("Redis", [*command, "--dir", str(home)], home / "log")

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def start(self) -> None:
        """Start it; return when it listens."""
        self._process.start()
        self._process.wait_ready(lambda: not is_free(self._port), timeout_s=30)

    def stop(self) -> None:
        """End it, with all that it knows."""
        self._process.end(signal.SIGKILL)

    def pause(self) -> None:
        """Let it hang: it takes connections, and never answers."""
        self._process.send(signal.SIGSTOP)

    def resume(self) -> None:
        """Let it go on."""
        self._process.send(signal.SIGCONT)
