"""The documents in the hands of tools from npm: `make contract` installs them."""

import subprocess
from pathlib import Path

import pytest

from tests.contract.documents import made_now

HERE = Path(__file__).parent
MODULES = HERE / "node_modules"
STATIC = HERE.parents[1] / "service" / "described" / "static"
OURS = {"docs.html", "docs.js", "README.md"}


def run(*command: str, stdin: bytes = b"") -> str:
    """Return what a tool prints, if it finds nothing wrong."""
    done = subprocess.run(command, check=False, input=stdin, capture_output=True, cwd=HERE)
    output = done.stdout.decode() + done.stderr.decode()
    assert done.returncode == 0, output
    return output


@pytest.mark.parametrize("name", ["openapi.json", "asyncapi.json"])
async def test_spectral_has_nothing_to_say(name: str, tmp_path: Path) -> None:
    """Every rule of the linter holds, hints included, but for those that are off with a reason."""
    document = tmp_path / name
    document.write_bytes((await made_now())[name])
    spectral = str(MODULES / ".bin" / "spectral")
    run(spectral, "lint", str(document), "--ruleset", "spectral.yaml", "--fail-severity", "hint")


async def test_asyncapi_s_own_parser_reads_the_document() -> None:
    """It finds the messages of four events and of a snapshot's two ends, and nothing to remark."""
    output = run("node", "asyncapi.js", stdin=(await made_now())["asyncapi.json"])
    assert output.strip() == "6 messages"


def test_files_of_the_page_are_those_of_their_package() -> None:
    """What is not ours is, byte for byte, in the npm package that package.json pins."""
    for file in STATIC.iterdir():
        if file.name not in OURS:
            assert file.read_bytes() == (MODULES / "swagger-ui-dist" / file.name).read_bytes()
