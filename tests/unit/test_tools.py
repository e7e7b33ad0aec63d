"""What a machine lacks is named all at once, with the command that installs it."""

import os
import subprocess
import sys
import venv
from pathlib import Path

import pytest

from deploy.local import tools
from deploy.local.tools import NEEDS, Machine

TOP = Path(__file__).parents[2]
RELEASES = {
    'PRETTY_NAME="Debian GNU/Linux 12 (bookworm)"\nVERSION_ID="12"\nID=debian\n': "Debian",
    'NAME="Ubuntu"\nVERSION_ID="24.04"\nID=ubuntu\nID_LIKE=debian\n': "Ubuntu",
    'NAME="Linux Mint"\nID=linuxmint\nID_LIKE="ubuntu debian"\n': "Ubuntu",
    'NAME="Fedora Linux"\nVERSION="42 (Container Image)"\nID=fedora\n': "Fedora",
    'NAME="Rocky Linux"\nID="rocky"\nID_LIKE="rhel centos fedora"\n': "Fedora",
    'NAME="Alpine Linux"\nID=alpine\n\n': None,
    "": None,
}
WANTED = ["python3", "curl", "promtool", "setpriv", "unshare"]
APT = "apt-get update && apt-get install -y --no-install-recommends curl prometheus {} util-linux"
SUDO_APT = APT.replace("apt-get", "sudo apt-get")
DNF = "dnf install -y /usr/bin/curl /usr/bin/promtool /usr/bin/setpriv /usr/bin/unshare python3.13"
BREW = "brew install curl prometheus python@3.13"
COMMANDS = [
    (Machine("Debian", root=True, minor=13), WANTED, [APT.format("python3.13-venv")]),
    (Machine("Ubuntu", root=False, minor=10), WANTED, [SUDO_APT.format("python3.11-venv")]),
    (Machine("Fedora", root=True, minor=10), WANTED, [DNF]),
    (Machine("Fedora", root=False, minor=10), WANTED, [f"sudo {DNF}"]),
    (Machine("macOS", root=False, minor=9), WANTED[:3], [BREW]),
    (
        Machine(None, root=True, minor=12),
        WANTED[:3],
        [
            *[APT.format("python3.12-venv").removesuffix(" util-linux")] * 2,
            "dnf install -y /usr/bin/curl /usr/bin/promtool python3.13",
            BREW,
        ],
    ),
]


CHECK = """
import os, sys
os.geteuid = lambda: 1000
from deploy.local.tools import main
main(sys.argv[1])
"""


def check(command: str, path: str) -> subprocess.CompletedProcess[str]:
    """Run the check without installed packages, as a user who is not root, with a PATH."""
    return subprocess.run(
        [sys.executable, "-S", "-c", CHECK, command],
        env={"PATH": path}, cwd=TOP, capture_output=True, text=True, check=False,
    )  # fmt: skip


@pytest.mark.parametrize(("text", "system"), RELEASES.items())
def test_a_system_is_known_by_its_release_file(text: str, system: str | None) -> None:
    """The system's own name counts first, then those that it is like."""
    assert tools.system_of(text) == system


@pytest.mark.parametrize(("machine", "programs", "commands"), COMMANDS)
def test_one_command_installs_all(
    machine: Machine, programs: list[str], commands: list[str]
) -> None:
    """The message has the system's command, or all four where the system is unknown."""
    lines = tools.message("test", programs, machine).splitlines()
    assert [line.strip() for line in lines if line.startswith("  ")] == commands


@pytest.mark.parametrize(
    ("machine", "named", "repeated"),
    [
        (Machine("Debian", root=False, minor=11), "Python's module venv", ""),
        (Machine("Ubuntu", root=False, minor=10), "Python 3.11 or newer", " PYTHON=python3.11"),
        (Machine("Fedora", root=False, minor=10), "Python 3.11 or newer", " PYTHON=python3.13"),
        (Machine("macOS", root=False, minor=9), "Python 3.11 or newer", " PYTHON=python3.13"),
        (
            Machine(None, root=False, minor=9),
            "Python 3.11 or newer",
            " PYTHON=python3.11 (or newer)",
        ),
    ],
)
def test_the_message_says_what_of_python_is_missing(
    machine: Machine, named: str, repeated: str
) -> None:
    """Either its module is missing, or it is too old: then the next run is told the new one's name."""
    first, *_, last = tools.message("run", ["python3"], machine).splitlines()
    assert first == f"make run needs what is not installed: {named}"
    assert last == f"Then repeat: make run{repeated}"


def test_docker_is_named_for_what_it_has() -> None:
    """The message names Docker for those of the missing programs that have an image, and only for those."""
    machine = Machine("Debian", root=False, minor=11)
    named = tools.message("test", ["curl", "promtool", "redis-server"], machine).splitlines()[-2]
    assert named == "Or, on Linux, start Docker, which has images of promtool, redis-server."
    assert "Docker" not in tools.message("test", ["curl"], machine)


def test_an_interrupted_set_up_goes_on(tmp_path: Path) -> None:
    """An environment without pip gets it; if pip finds no package, the last line says what it needs."""
    environment = tmp_path / ".venv"
    venv.create(environment)
    made = subprocess.run(
        ["make", "setup", f"VENV={environment}", f"PYTHON={sys.executable}"],
        env=os.environ | {"PIP_NO_INDEX": "1", "PIP_FIND_LINKS": ""},
        cwd=TOP, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert (environment / "bin/pip").exists()
    assert made.returncode == 2
    last = [line for line in made.stderr.splitlines() if not line.startswith("make")][-1]
    assert last.startswith("pip could not install the packages: it needs the Python Package Index")


@pytest.mark.parametrize("system", tools.INSTALLERS)
@pytest.mark.parametrize("command", NEEDS)
def test_every_program_has_a_package(system: str, command: str) -> None:
    """No package is named by a path of a file but Fedora's."""
    named = tools.packages(NEEDS[command], system, 11)
    assert bool(named) == bool(NEEDS[command])
    assert all(each.startswith("/usr/bin/") == (system == "Fedora") for each in named)


def test_everything_missing_is_named_at_once() -> None:
    """With an empty PATH a user reads one message, without a traceback, and the exit code is 1."""
    done = check("test", "")
    assert done.returncode == 1
    first, *_ = done.stderr.splitlines()
    missing = set(NEEDS["test"]) - {"pgbouncer"}  # /usr/sbin is always searched
    assert missing <= set(first.replace(",", "").split())
    assert "Traceback" not in done.stderr


def test_javac_without_a_jdk_is_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A `javac` that fails, as that of macOS does without a JDK, does not count as found."""
    javac = tmp_path / "javac"
    javac.write_text("#!/bin/sh\nexit 1\n")
    javac.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert tools.find("javac") is None
    javac.write_text("#!/bin/sh\n")
    assert tools.find("javac") == str(javac)


def test_the_main_job_needs_no_program() -> None:
    """`make run` needs Python alone."""
    done = check("run", "")
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
