"""Programs and schemas of earlier releases, from the repository's own history."""

import io
import subprocess
from pathlib import Path
from typing import Final
from zipfile import ZipFile

RELEASES: Final = {1: "1a4ec381ec05518e57977472026cb043f042b307"}
"""The last commit of each earlier release, by the schema that it needs: version 0.1."""
LAST_RELEASE: Final = RELEASES[max(RELEASES)]

PROGRAMS: Final = ("pyproject.toml", "schema.sql", "service", "outbox_worker")
TOP: Final = Path(__file__).parents[3]


def schema_of(version: int) -> str:
    """Return schema.sql of a release."""
    return _git("show", f"{RELEASES[version]}:schema.sql").decode()


def extract(version: int, folder: Path) -> Path:
    """Write the programs of a release to the folder, and return it."""
    archive = _git("archive", "--format=zip", RELEASES[version], *PROGRAMS)
    with ZipFile(io.BytesIO(archive)) as files:
        files.extractall(folder)
    return folder


def files_of_last_release(folder: str) -> dict[str, bytes]:
    """Return the files of a folder in the last release, by their paths."""
    names = _git("ls-tree", "-r", "--name-only", LAST_RELEASE, f"{folder}/").decode().split()
    return {name: _git("show", f"{LAST_RELEASE}:{name}") for name in names}


def text_of_last_release(*paths: str) -> str:
    """Return the lines of all files that match a path in the last release."""
    return _git("grep", "-h", "", LAST_RELEASE, "--", *paths).decode()


def _git(*arguments: str) -> bytes:
    """Return git's output, also in a clone that belongs to another user."""
    command = ["git", "-c", "safe.directory=*", "-C", str(TOP), *arguments]
    done = subprocess.run(command, capture_output=True, check=False)
    assert done.returncode == 0, f"{done.stderr.decode()}in a shallow clone: git fetch --unshallow"
    return done.stdout
