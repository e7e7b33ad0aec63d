"""wrk: calls as fast as they are answered, over so many connections, from one thread."""

import os
import random
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import msgspec

from tests.benchmarks.figures import Figures
from tests.benchmarks.stage import DOCUMENTS, ENTITIES

CALLS = Path(__file__).with_name("calls.lua")


class Load(msgspec.Struct):
    """What wrk counted. `failed` answers are among the requests."""

    requests: int
    duration_us: int
    p50_us: int
    p99_us: int
    failed: int

    def figures(self, name: str, links_a_request: int = 1) -> Figures:
        """Return the figures under a name; the rate is that of links."""
        return {
            f"{name}.rate": links_a_request * self.requests / self.duration_us * 1e6,
            f"{name}.p50": self.p50_us / 1e3,
            f"{name}.p99": self.p99_us / 1e3,
        }


class Caller(NamedTuple):
    """Where to call, with what key, and which of the calls in calls.lua, with its `values`."""

    url: str
    key: str
    connections: int
    call: str = "link"
    values: Mapping[str, str | int] = {}


def load(caller: Caller, seconds: int) -> Load:
    """Call for so long."""
    known = {
        "KEY": caller.key, "CALL": caller.call, "SEED": random.randrange(2**31),
        "DOCUMENTS": DOCUMENTS, "ENTITIES": ENTITIES, **caller.values,
    }  # fmt: skip
    environment = {f"BENCH_{name}": str(value) for name, value in known.items()}
    command = [
        "wrk", "-t1", f"-c{caller.connections}", f"-d{seconds}s", "--timeout", "10s",
        "-s", str(CALLS), caller.url,
    ]  # fmt: skip
    done = subprocess.run(
        command, env={**os.environ, **environment}, check=True, capture_output=True, text=True
    )
    return msgspec.json.decode(done.stdout.splitlines()[-1], type=Load)
