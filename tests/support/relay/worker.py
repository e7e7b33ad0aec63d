"""The worker as an operator sees it: a process with an environment, log lines and pages."""

import contextlib
import json
import os
import shutil
import signal
import sys
import tempfile
import weakref
from pathlib import Path
from typing import Any, Self

import httpx

from deploy.local.process import Process
from tests.support.waiting import TIMEOUT_S, eventually, until
from tests.telemetry.emitted import unlisted_in

OK = 200


class Worker:
    """`python -m outbox_worker run`, as a context manager that leaves nothing running.

    Without a topic, the topic has the name of the database: one that no other test uses.
    """

    def __init__(
        self, database: str, kafka: str, topic: str | None = None, **settings: str
    ) -> None:
        self.topic = topic or database.rpartition("/")[2]
        self._home = Path(tempfile.mkdtemp(prefix="worker-"))
        weakref.finalize(self, shutil.rmtree, self._home, ignore_errors=True)
        self.env = {
            "DATABASE_URL": database,
            "KAFKA_BOOTSTRAP_SERVERS": kafka,
            "OUTBOX_TOPIC": self.topic,
            "OUTBOX_HTTP_PORT": "0",
            **settings,
        }
        self._log = self._home / "log"
        self._command_log = self._home / "command"
        self._process = self._program(self._log, "run")
        self._seen = 0

    def _program(self, log: Path, *arguments: str) -> Process:
        command = [sys.executable, "-m", "outbox_worker", *arguments]
        return Process("worker", command, log, env=self.env)

    def __enter__(self) -> Self:
        """Start the worker."""
        self.start()
        return self

    def __exit__(self, _: object, error: BaseException | None, __: object) -> None:
        """Kill the worker; every line that it has logged must be listed in its `telemetry`."""
        self._process.end(signal.SIGKILL)
        if error is not None:
            error.add_note(f"The worker's output ends:\n{self.output()[-5000:]}")
        assert unlisted_in(self.output()) == []

    def command(self, *arguments: str) -> int | None:
        """Run another command in the same environment to its end; its output ends `output`."""
        self._command_log.unlink(missing_ok=True)
        program = self._program(self._command_log, *arguments)
        program.start()
        eventually(lambda: not program.running)
        return program.end()

    def start(self, *arguments: str) -> None:
        """Start the worker, perhaps again."""
        self._seen = len(self.log())
        self._process = self._program(self._log, "run", *arguments)
        self._process.start()

    def pause(self) -> None:
        """Let the worker hang; its connections stay open."""
        self.send(signal.SIGSTOP)

    def resume(self) -> None:
        """Let the worker run on after `pause`."""
        self.send(signal.SIGCONT)

    def send(self, number: signal.Signals) -> None:
        """Send a signal."""
        os.kill(self._process.pid, number)

    def end(
        self, number: signal.Signals = signal.SIGTERM, timeout_s: float = TIMEOUT_S
    ) -> int | None:
        """Send a signal and return the exit code; -9 if the worker did not end in time and was killed."""
        return self._process.end(number, timeout_s=timeout_s)

    @property
    def pid(self) -> int:
        """The process' id."""
        return self._process.pid

    @property
    def running(self) -> bool:
        """Whether the process runs."""
        return self._process.running

    async def ended(self) -> bool:
        """Whether the process has ended; a condition for `until`."""
        return not self.running

    def log(self) -> list[dict[str, Any]]:
        """Return the log lines of all starts so far, without a line that is being written."""
        written = self._log.read_bytes() if self._log.exists() else b""
        whole = written.split(b"\n")[:-1]
        return [json.loads(line) for line in whole if line.startswith(b"{")]

    def output(self) -> str:
        """Return all that the worker wrote, and then all that the last command wrote."""
        logs = [path for path in (self._log, self._command_log) if path.exists()]
        return "".join(path.read_text() for path in logs)

    async def wait_event(
        self, event: str, timeout_s: float = TIMEOUT_S, **fields: object
    ) -> dict[str, Any]:
        """Return the first log line since the last start that has this event and these fields."""

        async def look() -> dict[str, Any] | None:
            for line in self.log()[self._seen :]:
                if line["event"] == event and fields.items() <= line.items():
                    return line
            if not self.running:
                message = f"the worker ended before {event}: {self.output()[-2000:]}"
                raise AssertionError(message)
            return None

        try:
            found = await until(look, timeout_s)
        except TimeoutError:
            message = f"no {event} {fields} in {timeout_s} s: {self.output()[-3000:]}"
            raise AssertionError(message) from None
        assert found
        return found

    async def leading(self, timeout_s: float = TIMEOUT_S) -> None:
        """Return once the worker leads."""
        await self.wait_event("worker.state", timeout_s, state="leading")

    async def get(self, path: str) -> httpx.Response:
        """Get one of the worker's pages."""
        url = (await self.wait_event("worker.started"))["url"]
        async with httpx.AsyncClient(timeout=TIMEOUT_S, verify=False) as client:  # noqa: S501 - no TLS
            return await client.get(url + path)

    async def wait_published(self, events: int, timeout_s: float = TIMEOUT_S) -> None:
        """Return once the worker has published so many events since its last start."""

        async def enough() -> bool:
            return await self.metric("outbox_events_published_total") >= events

        await until(enough, timeout_s)

    async def wait_working(self, timeout_s: float = TIMEOUT_S) -> None:
        """Return once the worker is ready and has published another event; writers must be running."""
        before: float | None = None

        async def working() -> bool:
            nonlocal before
            with contextlib.suppress(httpx.HTTPError):
                now = await self.metric("outbox_last_publish_timestamp_seconds")
                before = now if before is None else before
                return now > before and (await self.get("/readyz")).status_code == OK
            return False

        try:
            await until(working, timeout_s)
        except TimeoutError:
            message = f"nothing was published in {timeout_s} s: {self.output()[-5000:]}"
            raise AssertionError(message) from None

    async def metric(self, name: str) -> float:
        """Return the value of a metric; 0 if it has none."""
        for line in (await self.get("/metrics")).text.splitlines():
            if line.startswith((f"{name} ", f"{name}{{")):
                return float(line.rpartition(" ")[2])
        return 0.0
