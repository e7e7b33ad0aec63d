"""The folder of the subscriber, copied out of the repository as a team that starts from it does."""

import subprocess
import sys
from pathlib import Path
from shutil import copytree

FOLDER = Path(__file__).parents[3] / "deploy" / "subscriber"
IMPORTED = """
import sys, subscriber.__main__, subscriber.changes
print(sorted({"deploy", "outbox_worker", "service", "tests"} & set(sys.modules)))
"""


def test_it_needs_nothing_else_of_the_repository(tmp_path: Path) -> None:
    """All its modules are imported from the copy, and nothing of the repository is."""
    copytree(FOLDER, tmp_path / "subscriber")
    done = subprocess.run(
        [sys.executable, "-c", IMPORTED],
        cwd=tmp_path, env={"PATH": ""}, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert (done.stdout, done.returncode) == ("[]\n", 0), done.stderr
