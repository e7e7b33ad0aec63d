"""The jars of Java programs: each is the one that the lock names."""

import hashlib
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from xml.etree import ElementTree as ET

import maven_artifact
import pytest

from deploy.local import java
from deploy.local.process import LocalError

CONTENT = b"a jar"
COORDINATES = "org.example:thing:1.0"


@pytest.fixture
def repository(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Yield the file of a jar in a Maven repository, which is served over HTTP."""
    path = tmp_path / "repository/org/example/thing/1.0/thing-1.0.jar"
    path.parent.mkdir(parents=True)
    path.write_bytes(CONTENT)
    handler = partial(SimpleHTTPRequestHandler, directory=str(tmp_path / "repository"))
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = Thread(target=server.serve_forever)
        thread.start()
        client = maven_artifact.Downloader(f"http://127.0.0.1:{server.server_port}")
        monkeypatch.setattr(java, "Downloader", lambda: client)
        yield path
        server.shutdown()
        thread.join()


def test_a_locked_jar_is_downloaded_once(repository: Path, tmp_path: Path) -> None:
    """The file is there after the first call; the second does not ask the repository."""
    jar = java.Jar(COORDINATES, hashlib.sha256(CONTENT).hexdigest())
    java.download(jar, tmp_path)
    repository.unlink()
    java.download(jar, tmp_path)
    assert (tmp_path / "thing-1.0.jar").read_bytes() == CONTENT


@pytest.mark.usefixtures("repository")
def test_another_jar_is_refused(tmp_path: Path) -> None:
    """A jar with another digest than the lock's is not kept."""
    with pytest.raises(LocalError, match="not the jar that the lock names"):
        java.download(java.Jar(COORDINATES, "0" * 64), tmp_path)
    assert list(tmp_path.glob("*.jar")) == []


def test_a_jar_that_cannot_be_downloaded_is_named(repository: Path, tmp_path: Path) -> None:
    """The error has its coordinates."""
    repository.unlink()
    with pytest.raises(LocalError, match=COORDINATES):
        java.download(java.Jar(COORDINATES, "0" * 64), tmp_path)


@pytest.mark.parametrize("pom", java.POMS, ids=lambda pom: pom.stem)
def test_a_lock_has_what_its_pom_file_names(pom: Path) -> None:
    """A version that was changed in the pom file alone is found."""
    locked = {jar.coordinates for jar in java.read_lock(pom)}
    named = {
        ":".join(str(part.text) for part in dependency[:3])
        for dependency in ET.parse(pom).iterfind(".//{*}dependency")  # noqa: S314 - ours
    }
    assert named
    assert named <= locked
