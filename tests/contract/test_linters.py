"""The published documents, checked by tools from npm, which `make contract` installs."""

import os
import subprocess
from pathlib import Path

import pytest

from tests.contract.clients import tools
from tests.contract.documents import made_now

HERE = Path(__file__).parent
MODULES = HERE / "node_modules"
STATIC = HERE.parents[1] / "service" / "described" / "static"
OURS = {"docs.html", "docs.js", "events.css", "README.md"}


OFFLINE = {"REDOCLY_TELEMETRY": "off", "REDOCLY_SUPPRESS_UPDATE_NOTICE": "true"}


def run(*command: str, stdin: bytes = b"") -> str:
    """Run a tool that must find nothing; return its output."""
    done = subprocess.run(
        command, check=False, input=stdin, capture_output=True, cwd=HERE,
        env={**os.environ, **OFFLINE, "PATH": tools.path()},
    )  # fmt: skip
    output = done.stdout.decode() + done.stderr.decode()
    assert done.returncode == 0, output
    return output


@pytest.mark.parametrize("name", ["openapi.json", "asyncapi.json"])
async def test_spectral_finds_nothing(name: str, tmp_path: Path) -> None:
    """All rules of Spectral pass, hints included; a rule that is off has a reason."""
    document = tmp_path / name
    document.write_bytes((await made_now())[name])
    spectral = str(MODULES / ".bin" / "spectral")
    run(spectral, "lint", str(document), "--ruleset", "spectral.yaml", "--fail-severity", "hint")


@pytest.mark.parametrize("name", ["openapi.json", "asyncapi.json"])
async def test_redocly_finds_nothing(name: str, tmp_path: Path) -> None:
    """All recommended rules of Redocly pass, warnings included; a rule that is off has a reason."""
    document = tmp_path / name
    document.write_bytes((await made_now())[name])
    run(str(MODULES / ".bin" / "redocly"), "lint", str(document), "--config", "redocly.yaml")


async def test_asyncapis_parser_reads_the_document() -> None:
    """The parser finds four event messages and two marker messages of snapshots, and no error."""
    output = run("node", "asyncapi.js", stdin=(await made_now())["asyncapi.json"])
    assert output.strip() == "6 messages"


def test_files_of_the_page_are_those_of_their_package() -> None:
    """The page's foreign files are identical to those in the npm package that package.json pins."""
    for file in STATIC.iterdir():
        if file.name not in OURS:
            assert file.read_bytes() == (MODULES / "swagger-ui-dist" / file.name).read_bytes()
