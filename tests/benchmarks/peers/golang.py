"""Peers in Go, built from the module proxy into the cache folder."""

import hashlib
from pathlib import Path

from deploy.local.java import CACHE
from deploy.local.process import say
from tests.support import environments
from tests.support.golang import go


def install(package: str, version: str) -> Path:
    """Return a program, built from a published module."""
    name = package.rpartition("/")[2]
    program = CACHE / f"{name}-{version}" / name
    if not program.exists():
        say(f"building {name} with Go (once; some minutes) …")
        environments.run([go(), "install", f"{package}@{version}"], {"GOBIN": str(program.parent)})
    return program


def build(folder: Path) -> Path:
    """Return a program, built from the source in a folder; its dependencies are those of go.sum."""
    digest = hashlib.sha256()
    for source in sorted([*folder.glob("*.go"), *folder.glob("go.*")]):
        digest.update(source.read_bytes())
    program = CACHE / f"{folder.name}-{digest.hexdigest()[:12]}" / folder.name
    if not program.exists():
        say(f"building {folder.name} with Go (once) …")
        environments.run([go(), "build", "-trimpath", "-o", str(program), "."], folder=folder)
    return program
