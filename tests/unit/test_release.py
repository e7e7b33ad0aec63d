"""The release in pyproject.toml, and the texts and files that repeat it."""

import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from service.described.words import LICENCE

TOP = Path(__file__).parents[2]
PROJECT = tomllib.loads((TOP / "pyproject.toml").read_text())["project"]
VERSION = PROJECT["version"]
CHANGELOG = (TOP / ".github/CHANGELOG.md").read_text()
DOCKERFILE = (TOP / "deploy/Dockerfile").read_text()


@pytest.mark.parametrize("program", ["service", "outbox_worker"])
def test_programs_print_the_release(program: str, tmp_path: Path) -> None:
    """`--version` prints the release and exits with 0, without settings and from any folder."""
    command = [sys.executable, "-m", program, "--version"]
    done = subprocess.run(
        command, cwd=tmp_path, env={"PYTHONPATH": str(TOP)}, capture_output=True, check=True
    )
    assert (done.stdout.decode(), done.stderr) == (f"document-links {VERSION}\n", b"")


def test_the_changelog_begins_with_this_release() -> None:
    """The newest version of the changelog is the release, and each version has a date."""
    headings = re.findall(r"^## (.*)$", CHANGELOG, re.MULTILINE)
    versions = [re.fullmatch(r"\[(\d+\.\d+\.\d+)\] - \d{4}-\d\d-\d\d", each) for each in headings]
    assert next(each and each[1] for each in versions) == VERSION
    assert all(versions)


def test_the_security_policy_supports_this_release() -> None:
    """The newest supported version is the minor release of pyproject.toml."""
    policy = (TOP / ".github/SECURITY.md").read_text()
    rows = re.findall(r"^\| (\d+\.\d+) \| (yes|no)", policy, re.MULTILINE)
    assert rows[0] == (VERSION.rpartition(".")[0], "yes")


def test_the_image_has_what_tells_the_release() -> None:
    """The image has pyproject.toml, which the programs read, and the licence; tag and labels are right."""
    (copied,) = re.findall(r"^COPY (.*pyproject.toml.*) /app/$", DOCKERFILE, re.MULTILINE)
    assert {"pyproject.toml", *PROJECT["license-files"]} <= set(copied.split())
    assert set(re.findall(r"document-links:(\d\S*)", DOCKERFILE)) == {VERSION}
    labels = dict(re.findall(r"org\.opencontainers\.image\.(\w+)=(\S+)", DOCKERFILE))
    assert labels == {"title": PROJECT["name"], "version": VERSION, "licenses": PROJECT["license"]}


def test_the_licence_is_said_alike() -> None:
    """The described licence and the licence's text are those that pyproject.toml names."""
    (file,) = PROJECT["license-files"]
    assert (TOP / file).read_text().startswith(f"{PROJECT['license']} License\n")
    assert LICENCE["name"] == PROJECT["license"]
