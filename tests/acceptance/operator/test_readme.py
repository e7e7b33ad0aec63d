"""The README's code, executed as it is written, against `make run`."""

import json
import os
import re
import signal
import subprocess
from pathlib import Path
from tempfile import mkdtemp
from typing import Any

import pytest

from tests.acceptance.operator.test_local_parts import END_S, READY_S, has_printed, running
from tests.support.waiting import eventually

TOP = Path(__file__).parents[3]
BLOCK = re.compile(r"^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
EXPORT = re.compile(r"^export (\w+)='?([^'\n]*)'?$", re.MULTILINE)
pytestmark = pytest.mark.timeout(600)  # each starts Postgres and Kafka, and ends them
SETTINGS = re.compile("LINKS_|OUTBOX_|KAFKA_|DATABASE_URL|URL$|KEY$")


def blocks(language: str) -> list[str]:
    """Return the README's code blocks of a language in order, without those of `make` commands."""
    found = BLOCK.findall((TOP / "README.md").read_text())
    return [text for lang, text in found if lang == language and not text.startswith("make ")]


def printed(output: Path) -> dict[str, str]:
    """Return an environment with only the settings that `make run` has printed."""
    kept = {name: value for name, value in os.environ.items() if not SETTINGS.match(name)}
    return kept | dict(EXPORT.findall(output.read_text()))


def objects(text: str) -> list[dict[str, Any]]:
    """Return the JSON objects in the output, in order."""
    found, decoder = [], json.JSONDecoder()
    while text := text.strip():
        each, end = decoder.raw_decode(text)
        found.append(each)
        text = text[end:]
    return found


def left_by(folder: Path) -> list[str]:
    """Return the processes that run with that temporary folder, and the folder's files."""
    mark = f"TMPDIR={folder}\0".encode()
    found = [each.name for each in folder.iterdir()]
    for process in Path("/proc").glob("[0-9]*/environ"):
        try:
            found += [str(process)] if mark in process.read_bytes() else []
        except OSError:  # it has ended, or is somebody else's
            continue
    return found


@pytest.fixture
def temporary(monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return an empty folder for TMPDIR that each user may enter."""
    folder = Path(mkdtemp(prefix="readme-"))
    folder.chmod(0o755)
    monkeypatch.setenv("TMPDIR", str(folder))
    return folder


def test_the_readmes_code_works(tmp_path: Path, temporary: Path) -> None:
    """The shell lines, the subscriber on compressed events, and the printed commands work."""
    output = tmp_path / "output"
    with running("run", output, OUTBOX_COMPRESSION="zstd") as process:
        eventually(has_printed(output, "Ctrl-C ends all"), READY_S)
        env = printed(output)
        script = subprocess.run(
            ["bash", "-euo", "pipefail", "-c", "\n".join(blocks("sh"))],
            cwd=TOP, env=env, capture_output=True, text=True, check=True,
        )  # fmt: skip
        answers = objects(script.stdout)
        assert len(answers) == script.args[-1].count("curl ")
        assert [answer for answer in answers if "data" not in answer] == []
        read = subscribed(blocks("python")[0], env, tmp_path / "subscriber")
        assert "document.linked doc_1" in read
        assert "ship_abc123" in read
        commands = re.findall(r"^\S*python -m .*$", output.read_text(), re.MULTILINE)
        assert len(commands) == 3
        for command in commands:
            done = subprocess.run(
                command.split(), cwd=TOP, env=env, capture_output=True, text=True, check=False
            )
            assert done.returncode == 0, (command, done)
        process.send_signal(signal.SIGHUP)
        assert process.wait(timeout=END_S) == 0
    assert left_by(temporary) == []
    temporary.rmdir()


def subscribed(code: str, env: dict[str, str], output: Path) -> str:
    """Return the subscriber's output once it has shown both links."""
    with output.open("wb") as file:
        subscriber = subprocess.Popen(
            [str(TOP / ".venv/bin/python"), "-c", code],
            env=env | {"PYTHONPATH": ""},
            stdout=file,
            stderr=file,
        )
    try:
        eventually(lambda: "ship_abc123" in output.read_text() and subscriber.poll() is None)
    finally:
        subscriber.kill()
        subscriber.wait()
    return output.read_text()


def test_ctrl_c_leaves_nothing(tmp_path: Path, temporary: Path) -> None:
    """After Ctrl-C no process and no file is left, even if it is pressed again during the end."""
    output = tmp_path / "output"
    with running("run", output) as process:
        eventually(has_printed(output, "starting the service"), READY_S)
        process.send_signal(signal.SIGINT)
        process.send_signal(signal.SIGINT)
        assert process.wait(timeout=END_S) == 0
    assert "Traceback" not in output.read_text()
    assert left_by(temporary) == []
    temporary.rmdir()
