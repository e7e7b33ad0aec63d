"""The README and the files in deploy/ name exactly the settings of the programs."""

import re
from pathlib import Path

import msgspec
import pytest

from outbox_worker.settings import Settings as WorkerSettings
from service.settings import Settings as ServiceSettings

TOP = Path(__file__).parents[2]
SETTINGS = {
    field.encode_name
    for settings in (ServiceSettings, WorkerSettings)
    for field in msgspec.structs.fields(settings)
}
DESCRIBED = (
    "README.md",
    "deploy/Dockerfile",
    "deploy/compose.yaml",
    "deploy/debezium/README.md",
    "deploy/kubernetes.yaml",
    "deploy/runbook.md",
    "deploy/sizing.md",
)


def test_readme_names_every_setting() -> None:
    """The README's table has all settings of both programs."""
    readme = (TOP / "README.md").read_text()
    assert [name for name in sorted(SETTINGS) if f"`{name}`" not in readme] == []


@pytest.mark.parametrize("name", DESCRIBED)
def test_no_setting_is_made_up(name: str) -> None:
    """Each variable with a program's prefix exists: the program refuses unknown ones."""
    mentioned = set(re.findall(r"\b(?:LINKS|OUTBOX)_[A-Z_]+\b", (TOP / name).read_text()))
    assert mentioned <= SETTINGS
