"""The generators: those from npm are installed by `make contract`, the others into the cache, once.

Node is installed from PyPI with the generators of Python. Some tools from npm refuse Debian 12's Node 18.
"""

import hashlib
import os
import subprocess
import sys
import venv
from pathlib import Path
from typing import Final

from deploy.local.java import CACHE, jars, one_at_a_time
from deploy.local.process import say

HERE: Final = Path(__file__).parent
REQUIREMENTS: Final = HERE / "requirements.txt"
POM: Final = HERE / "clients.xml"
MODULES: Final = HERE.parent / "node_modules"


def run(*command: str | Path, cwd: Path, stdin: str = "", **environment: str) -> str:
    """Run a tool that must succeed; return its standard output."""
    done = subprocess.run(
        [str(part) for part in command],
        env={**os.environ, **environment}, cwd=cwd, input=stdin, capture_output=True, text=True,
        check=False,
    )  # fmt: skip
    assert done.returncode == 0, f"{command[0]}: {done.stdout[-5000:]}{done.stderr[-5000:]}"
    return done.stdout


def path() -> str:
    """Return a PATH that begins with the programs of python(), Node among them."""
    return f"{python()}{os.pathsep}{os.environ['PATH']}"


def npm(name: str, *arguments: str | Path, cwd: Path) -> None:
    """Run a tool from npm, which must succeed."""
    run(MODULES / ".bin" / name, *arguments, cwd=cwd, PATH=path())


def python() -> Path:
    """Return the folder of programs of an environment with what requirements.txt locks."""
    version = "{}.{}".format(*sys.version_info)
    digest = hashlib.sha256(REQUIREMENTS.read_bytes()).hexdigest()[:12]
    folder = CACHE / f"clients-{version}-{digest}"
    done = folder / "installed"
    with one_at_a_time("clients-python"):
        if not done.exists():
            say("installing the generators of Python clients (once) …")
            venv.create(folder, with_pip=True, clear=True)
            options = ("--quiet", "--no-deps", "--require-hashes", "-r", REQUIREMENTS)
            run(folder / "bin/python", "-m", "pip", "install", *options, cwd=folder)
            done.touch()
    return folder / "bin"


def java() -> Path:
    """Return the folder with the jars of OpenAPI Generator and of its clients."""
    return jars(POM)
