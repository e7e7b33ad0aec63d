"""The bill of materials: valid CycloneDX with each requirement of the image."""

import json
import re
import tomllib
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from cyclonedx.schema import SchemaVersion
from cyclonedx.validation.json import JsonStrictValidator

from deploy.sbom import TOP, main

PROJECT = tomllib.loads((TOP / "pyproject.toml").read_text())["project"]
LOCKED = re.compile(r"^([a-z0-9-]+)(?:\[\S+\])?==(\S+)((?:.*\\\n)+.*)", re.MULTILINE)


def is_installed(name: str, locked: str) -> bool:
    """Whether this environment has that version of the package."""
    try:
        return version(name) == locked
    except PackageNotFoundError:
        return False


def test_every_locked_requirement_is_named(tmp_path: Path) -> None:
    """The document is valid, and names the project and each locked requirement with its licence.

    Of a requirement it also has the version and the hashes.
    """
    file = tmp_path / "new" / "sbom.cdx.json"
    main(file)
    assert JsonStrictValidator(SchemaVersion.V1_6).validate_str(file.read_text()) is None
    project = json.loads(file.read_text())["metadata"]["component"]
    assert (project["name"], project["version"]) == (PROJECT["name"], PROJECT["version"])
    assert [each["license"]["id"] for each in project["licenses"]] == [PROJECT["license"]]
    written = {}
    for each in json.loads(file.read_text())["components"]:
        (source,) = each["externalReferences"]
        hashes = {found["content"] for found in source["hashes"]}
        written[each["name"], each["version"]] = hashes
        if is_installed(each["name"], each["version"]):
            assert each["licenses"], each["name"]
    text = (TOP / "deploy/requirements/run.txt").read_text()
    assert len(re.findall(r"^[^\s#]", text, re.MULTILINE)) == len(written)
    assert written == {
        (name, locked): set(re.findall(r"sha256:(\w+)", rest))
        for name, locked, rest in LOCKED.findall(text)
    }
