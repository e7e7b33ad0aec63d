"""Programs and schemas of earlier releases, from the repository's own history."""

import io
import subprocess
import tarfile
from pathlib import Path
from typing import Final

RELEASES: Final = {1: "1a4ec381ec05518e57977472026cb043f042b307"}
"""The last commit of each earlier release, by the schema that it brought: version 0.1."""

TOP: Final = Path(__file__).parents[3]


def schema_of(version: int) -> str:
    """Return schema.sql of a release."""
    return _git("show", f"{RELEASES[version]}:schema.sql").decode()


def extract(version: int, folder: Path) -> Path:
    """Write the programs of a release to the folder, and return it."""
    archive = _git("archive", RELEASES[version], "schema.sql", "service", "outbox_worker")
    with tarfile.open(fileobj=io.BytesIO(archive)) as files:
        files.extractall(folder, filter="data")
    return folder


def _git(*arguments: str) -> bytes:
    """Return git's output, also in a clone that belongs to another user."""
    command = ["git", "-c", "safe.directory=*", "-C", str(TOP), *arguments]
    done = subprocess.run(command, capture_output=True, check=False)
    assert done.returncode == 0, f"{done.stderr.decode()}in a shallow clone: git fetch --unshallow"
    return done.stdout
