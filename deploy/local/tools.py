"""The programs outside Python that each `make` command needs: they are found, installed or named as missing.

`python3 -m deploy.local.tools test` runs before the virtual environment exists. It therefore imports only
the standard library, and an older Python, down to 3.8, can read it and say that it is too old.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import NamedTuple

PYTHON = "python3"
OLDEST_MINOR = 11
EXTRA_POSTGRES = "POSTGRES_EXTRA_BINDIR"
"""The variable with the folder of another Postgres that `make test` uses too."""
NEEDS: dict[str, tuple[str, ...]] = {
    "setup": (),
    "run": (),
    "test": (
        "curl", "git", "openssl", "pgbouncer", "prometheus", "promtool", "redis-server", "setpriv", "unshare",
        "wrk",
    ),
    "contract": ("chromedriver", "javac", "npm"),
    "bench": ("wrk",),
    "bench-peers": ("wrk",),
    "soak": (),
    "lock-jars": ("mvn",),
}  # fmt: skip
"""What each command needs besides Python with its module venv. pip brings Postgres, a Java runtime, Go
and Node; npm installs packages with the Node that it comes with."""
LINUX_ONLY = {"setpriv", "unshare"}
IMAGES = {
    "pgbouncer": "edoburu/pgbouncer:v1.24.1-p1",
    "prometheus": "prom/prometheus:v3.5.0",
    "promtool": "prom/prometheus:v3.5.0",
    "redis-server": "redis:8",
}
"""The Docker images of programs. Where Docker answers on Linux, these programs need not be installed."""

APT = "{sudo}apt-get update && {sudo}apt-get install -y --no-install-recommends"
INSTALLERS = {
    "Debian": APT,
    "Ubuntu": APT,
    "Fedora": "{sudo}dnf install -y",
    "macOS": "brew install",
}
APT_PACKAGES = {
    "chromedriver": "chromium-driver", "javac": "default-jdk-headless", "mvn": "maven",
    "promtool": "prometheus", "setpriv": "util-linux", "unshare": "util-linux",
    "/usr/lib/postgresql/15/bin/postgres": "postgresql-15",
}  # fmt: skip
PACKAGES = {
    "Debian": APT_PACKAGES,
    "Ubuntu": {**APT_PACKAGES, "chromedriver": "chromium-chromedriver"},
    "Fedora": {PYTHON: "python3.13"},
    "macOS": {PYTHON: "python@3.13", "javac": "openjdk", "mvn": "maven", "npm": "node",
              "promtool": "prometheus", "redis-server": "redis"},
}  # fmt: skip
"""The packages that are not named after the program."""


class Machine(NamedTuple):
    """What decides how programs are installed."""

    system: str | None
    """A key of INSTALLERS; None: another system."""
    root: bool
    minor: int
    """The minor version of the Python that runs: 11 for 3.11."""


def find(program: str) -> str | None:
    """Return the path of a program, also in /usr/sbin, where Debian's users do not search."""
    path = shutil.which(program, path=os.pathsep.join([os.environ.get("PATH", ""), "/usr/sbin"]))
    if path and program == "javac":  # that of macOS fails if there is no JDK
        done = subprocess.run([path, "-version"], check=False, capture_output=True)
        return path if done.returncode == 0 else None
    return path


def docker(*arguments: str) -> bool:
    """Whether a Docker client is installed and its command succeeds."""
    client = find("docker")
    command = [client or "docker", *arguments]
    return (
        bool(client) and subprocess.run(command, check=False, capture_output=True).returncode == 0
    )


def in_docker(program: str) -> bool:
    """Whether a Docker engine on this machine can run an image of the program."""
    return sys.platform == "linux" and program in IMAGES and docker("version")


def missing(command: str) -> list[str]:
    """Return what a command needs and this machine does not have."""
    needs = [each for each in NEEDS[command] if sys.platform == "linux" or each not in LINUX_ONLY]
    if command == "test" and os.environ.get(EXTRA_POSTGRES):
        needs.append(os.environ[EXTRA_POSTGRES] + "/postgres")
    old = sys.version_info < (3, OLDEST_MINOR)
    python = [PYTHON] if old or find_spec("ensurepip") is None else []  # Debian packages it apart
    return python + [each for each in needs if not (find(each) or in_docker(each))]


def system_of(os_release: str) -> str | None:
    """Return the key of INSTALLERS for the text of /etc/os-release; None: another system."""
    fields = dict(line.split("=", 1) for line in os_release.splitlines() if "=" in line)
    ids = " ".join(fields.get(name, "").strip("\"'") for name in ("ID", "ID_LIKE")).split()
    return next((name for each in ids for name in INSTALLERS if name.lower() == each), None)


def packages(programs: Sequence[str], system: str, minor: int) -> list[str]:
    """Return the packages that have the programs on a system.

    Debian's package of venv brings the Python of its version. Fedora installs a package by the name
    of a file in it, whatever the package is called.
    """
    names = {PYTHON: f"python3.{max(minor, OLDEST_MINOR)}-venv", **PACKAGES[system]}
    default = "/usr/bin/{}" if system == "Fedora" else "{}"
    return sorted({names.get(each, default.format(each)) for each in programs})


def message(command: str, programs: Sequence[str], machine: Machine) -> str:
    """Say what is missing and how to install it, on each system if this one is unknown."""
    old = machine.minor < OLDEST_MINOR
    python = f"Python 3.{OLDEST_MINOR} or newer" if old else "Python's module venv"
    named = [python if each == PYTHON else each for each in programs]
    lines = [f"make {command} needs what is not installed: {', '.join(named)}", "Install it:"]
    for system in [machine.system] if machine.system else INSTALLERS:
        lines += [] if machine.system else [f"on {system}:"]
        installer = INSTALLERS[system].format(sudo="" if machine.root else "sudo ")
        lines.append(f"  {installer} {' '.join(packages(programs, system, machine.minor))}")
    if images := [each for each in programs if each in IMAGES]:
        lines.append(f"Or, on Linux, start Docker, which has images of {', '.join(images)}.")
    newer = f" PYTHON={_newer_python(machine.system)}" if old else ""
    return "\n".join([*lines, f"Then repeat: make {command}{newer}"])


def _newer_python(system: str | None) -> str:
    """Return the program of the package that a system with an older Python is told to install."""
    if system is None:
        return f"python3.{OLDEST_MINOR} (or newer)"
    (package,) = packages([PYTHON], system, OLDEST_MINOR)
    return package.replace("@", "").replace("-venv", "")  # removesuffix is new in Python 3.9


def install(programs: Sequence[str], machine: Machine) -> None:
    """Install packages with apt-get, as root. If it fails, exit with its output and one last line."""
    names = " ".join(packages(programs, machine.system or "Debian", machine.minor))
    print(f"installing with apt-get: {names} …", file=sys.stderr, flush=True)
    wait = "-o DPkg::Lock::Timeout=300"  # seconds, for another apt-get to end
    done = subprocess.run(
        ["/bin/sh", "-c", f"{APT.format(sudo='')} {wait} {names}"],
        env={**os.environ, "DEBIAN_FRONTEND": "noninteractive"}, check=False, text=True,
        stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
    )  # fmt: skip
    if done.returncode != 0:
        sys.exit(f"{done.stdout}\napt-get could not install {names}: its output is above")


def pull(command: str) -> None:
    """Let Docker download the images of the programs that are not installed."""
    for image in [IMAGES[each] for each in NEEDS[command] if each in IMAGES and not find(each)]:
        if not docker("image", "inspect", image):
            print(f"pulling {image} …", file=sys.stderr, flush=True)
            if not docker("pull", image):
                sys.exit(f"Docker cannot pull {image}")


def main(command: str) -> None:
    """Return if the command has what it needs; otherwise install it, or exit with the message."""
    release = Path("/etc/os-release")
    text = release.read_text(encoding="utf-8") if release.exists() else ""
    system = "macOS" if sys.platform == "darwin" else system_of(text)
    machine = Machine(system, os.geteuid() == 0, sys.version_info[1])
    programs = missing(command)
    if programs and machine.root and system in {"Debian", "Ubuntu"}:
        install(programs, machine)
        programs = missing(command)
    if programs:
        sys.exit(message(command, programs, machine))
    pull(command)


if __name__ == "__main__":
    try:
        main(sys.argv[1])
    except KeyboardInterrupt:
        sys.exit("stopped")
