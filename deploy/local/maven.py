"""Java programs from Maven Central, copied once into a cache folder."""

import fcntl
import hashlib
import shutil
from pathlib import Path

from deploy.local.interruption import run_tool
from deploy.local.process import LocalError, say

ROOT = Path(__file__).parents[2]
CACHE = ROOT / ".cache"


def jars(pom: Path, name: str) -> Path:
    """Return the folder with the jars of a pom.xml, which Maven downloads if the folder is missing.

    The folder's name has a hash of the pom.xml, so a changed version is downloaded again. LocalError if
    Maven fails.
    """
    folder = CACHE / f"{name}-{_fingerprint(pom)}"
    CACHE.mkdir(exist_ok=True)
    with (CACHE / f"{name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # processes that need the jars at once share one download
        if not folder.exists():
            say(f"downloading {name} with Maven (once; about a minute) …")
            _copy(pom, folder)
    return folder


def installed() -> bool:
    """Whether Java and Maven are installed."""
    return bool(shutil.which("java") and shutil.which("mvn"))


def _fingerprint(pom: Path) -> str:
    return hashlib.sha256(pom.read_bytes()).hexdigest()[:12]


def _copy(pom: Path, folder: Path) -> None:
    partial = folder.with_suffix(".partial")
    shutil.rmtree(partial, ignore_errors=True)
    command = [
        "mvn", "-q", "-B", "-f", str(pom), "dependency:copy-dependencies",
        "-DincludeScope=runtime", f"-DoutputDirectory={partial}",
    ]  # fmt: skip
    done = run_tool(command)
    if done.returncode != 0:
        message = f"Maven could not fetch {pom}:\n{done.stdout[-2000:]}{done.stderr[-2000:]}"
        raise LocalError(message)
    partial.rename(folder)
