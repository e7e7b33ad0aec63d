"""`make sbom`: a bill of materials of the image in CycloneDX 1.6, from deploy/requirements/run.txt.

cyclonedx-bom takes names, versions and hashes from the locked requirements, which have no licences. The
licences are those that the installed packages declare. A requirement for another platform or Python is not
installed here, so it has none.
"""

import json
import subprocess
import sys
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path
from typing import Any, Final

TOP: Final = Path(__file__).parents[1]
COMMAND: Final = (
    *(sys.executable, "-W", "ignore", "-m", "cyclonedx_py", "requirements"),
    *("deploy/requirements/run.txt", "--pyproject", "pyproject.toml", "--mc-type", "application"),
    *("--spec-version", "1.6", "--output-reproducible"),
)
LICENCE_CLASSIFIER: Final = "License :: "


def bill_of_materials() -> dict[str, Any]:
    """Return the CycloneDX document, the same for the same requirements."""
    made = subprocess.run(COMMAND, cwd=TOP, stdout=subprocess.PIPE, check=True)
    document: dict[str, Any] = json.loads(made.stdout)
    for component in document["components"]:
        del component["description"]  # the line of the requirements file
        if licences := _licences(component["name"], component["version"]):
            component["licenses"] = licences
    return document


def _licences(name: str, version: str) -> list[dict[str, Any]]:
    """Return the licences that the package's metadata declares; empty if this version is not installed."""
    try:
        metadata = distribution(name).metadata
    except PackageNotFoundError:
        return []
    if metadata["Version"] != version:
        return []
    for expression in metadata.get_all("License-Expression", []):
        return [{"expression": expression}]
    names = [
        each for each in metadata.get_all("Classifier", []) if each.startswith(LICENCE_CLASSIFIER)
    ]
    names = names or metadata.get_all("License", [])  # the field before License-Expression
    return [{"license": {"name": each}} for each in names]


def main(path: Path) -> None:
    """Write the document to a file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(bill_of_materials(), indent=2) + "\n")
    print(path)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
