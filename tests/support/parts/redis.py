"""A Redis for one test, installed or in Docker: on a free port, without persistence."""

import signal
import tempfile
from pathlib import Path
from typing import Self

from deploy.local.containers import Tool
from deploy.local.process import free_port, is_free


class Redis:
    """A Redis as a context manager; between `stop` and `start` it is down."""

    def __init__(self) -> None:
        self._port = free_port()
        self.url = f"redis://127.0.0.1:{self._port}/0"
        home = Path(tempfile.mkdtemp(prefix="redis-"))
        arguments = [
            "--port",
            str(self._port),
            "--bind",
            "127.0.0.1",
            "--save",
            "",
            "--dir",
            str(home),
        ]
        self._process = Tool("redis-server", arguments, home / "log")

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def start(self) -> None:
        """Start Redis; return when it listens."""
        self._process.start()
        self._process.wait_ready(lambda: not is_free(self._port), timeout_s=60)

    def stop(self) -> None:
        """Kill Redis; its data is lost."""
        self._process.end(signal.SIGKILL)

    def pause(self) -> None:
        """Let Redis hang: the kernel accepts connections, and nobody answers."""
        self._process.send(signal.SIGSTOP)

    def resume(self) -> None:
        """Let Redis run on after `pause`."""
        self._process.send(signal.SIGCONT)
