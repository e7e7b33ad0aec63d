"""Commands, run as processes without a terminal."""

import asyncio
import json
import os
import subprocess
import sys
from asyncio.subprocess import Process
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

TIMEOUT_S = 60


class Done(NamedTuple):
    """A command that has ended."""

    code: int
    output: str
    errors: str

    @property
    def report(self) -> dict[str, Any]:
        """The JSON that the command printed."""
        report: dict[str, Any] = json.loads(self.output)
        return report


def forked(module: str, calls: Sequence[Sequence[str]], env: Mapping[str, str]) -> list[Done]:
    """Run a program with each of the argument lists, in forks of one process that has imported it."""
    done = subprocess.run(
        [sys.executable, "-m", "tests.support.programs.forked", module],
        input=json.dumps(calls).encode(),
        env=env,
        stdout=subprocess.PIPE,
        check=True,
    )
    return [Done(*each) for each in json.loads(done.stdout)]


class Operator:
    """Runs commands in a worker's environment."""

    def __init__(self, env: dict[str, str]) -> None:
        self._env = {**os.environ, **env}

    async def run(self, *arguments: str) -> Done:
        """Run a command to its end."""
        return await self.end_of(await self.start(*arguments))

    async def start(self, *arguments: str) -> Process:
        """Start a command."""
        return await asyncio.create_subprocess_exec(
            sys.executable,
            "-m",
            "outbox_worker",
            *arguments,
            env=self._env,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )

    async def end_of(self, process: Process) -> Done:
        """Wait for a command's end; return its exit code and output."""
        async with asyncio.timeout(TIMEOUT_S):
            output, errors = await process.communicate()
        assert process.returncode is not None
        return Done(process.returncode, output.decode(), errors.decode())
