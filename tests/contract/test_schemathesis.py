"""The running service against its own OpenAPI document, with all checks and phases of schemathesis."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.contract.conftest import Running

CONFIG = Path(__file__).with_name("schemathesis.toml")


@pytest.mark.timeout(300)
@pytest.mark.parametrize(
    ("phases", "seconds"),
    [("examples,coverage,fuzzing", 40), ("stateful", 30)],
    ids=["one", "many"],
)
def test_the_service_does_what_its_document_says(
    running: Running, tmp_path: Path, phases: str, seconds: int
) -> None:
    """Valid and invalid requests made from the document, alone and in sequences, find no difference."""
    shutil.copy(CONFIG, tmp_path)
    users = [
        {"name": name, "fixedHeaders": [{"name": "X-API-KEY", "value": key}]}
        for name, key in [("one", running.key), ("other", running.other_key)]
    ]
    (tmp_path / "keys.json").write_text(json.dumps({"auth": users}))
    command = [
        sys.executable, "-m", "schemathesis.cli", "run", f"{running.url}/openapi.json",
        "--phases", phases, "--max-time", str(seconds),
    ]  # fmt: skip
    done = subprocess.run(command, check=False, capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
