"""Virtual environments for the programs of tests and benchmarks, apart from the project's own."""

import hashlib
import os
import subprocess
import venv
from collections.abc import Mapping
from pathlib import Path

from deploy.local.java import CACHE
from deploy.local.process import LocalError, say


def install(name: str, requirements: Path) -> str:
    """Return the Python of an environment with what a file locks; it is made once for each content."""
    digest = hashlib.sha256(requirements.read_bytes()).hexdigest()[:12]
    folder = CACHE / f"{name}-{digest}"
    python = str(folder / "bin" / "python")
    done = folder / "installed"
    if not done.exists():
        say(f"installing what {requirements.name} of {name} locks (once) …")
        venv.create(folder, with_pip=True, clear=True)
        pip = [python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
        run([*pip, "--no-deps", "--require-hashes", "-r", str(requirements)])
        done.touch()
    return python


def run(
    command: list[str], environment: Mapping[str, str] | None = None, folder: Path | None = None
) -> str:
    """Run a command to its end and return its output; LocalError with its errors if it fails."""
    done = subprocess.run(
        command, env={**os.environ, **(environment or {})}, cwd=folder, check=False,
        capture_output=True, text=True,
    )  # fmt: skip
    if done.returncode != 0:
        raise LocalError(done.stderr[-2000:])
    return done.stdout
