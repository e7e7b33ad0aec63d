"""The runbook and other texts for operators name what exists, and all failures."""

import builtins
import re
from pathlib import Path
from typing import Any

import aiokafka.errors
import asyncpg
import pytest
import typer

from outbox_worker import __main__ as worker
from service import __main__ as service
from service.described.snapshots import MARKER_TYPES
from tests.telemetry.emitted import EVENTS, METRICS

TOP = Path(__file__).parents[2]
RUNBOOK = (TOP / "deploy" / "runbook.md").read_text()
TEXTS = ("README.md", "deploy/runbook.md", "deploy/telemetry.md", "deploy/backup.md",
         "deploy/sizing.md", "deploy/debezium/README.md", "deploy/subscriber/README.md",
         "deploy/compose.yaml", "deploy/kubernetes.yaml", "deploy/Dockerfile")  # fmt: skip
TABLES = {"outbox_worker", "outbox_relay", "outbox_checkpoints", "outbox_tasks", "outbox_pause"}
COMMAND = re.compile(r"(?<![\w.])(service|outbox_worker)(?: |, )([a-z]+)\b([^`\n|;(]*)")


def sources() -> list[Path]:
    """Return the source files of both programs."""
    return [path for name in ("outbox_worker", "service") for path in (TOP / name).rglob("*.py")]


def test_the_runbook_names_no_event_that_is_never_logged() -> None:
    """Each event in the runbook is logged by a program."""
    named = set(re.findall(r"`([a-z_]+\.[a-z_]+)`", RUNBOOK)) - set(MARKER_TYPES)
    listed = {name for events in EVENTS.values() for name in events}
    assert {name for name in named - listed if not name.startswith("document.")} == set()


def test_the_runbook_names_the_events_that_refer_to_it() -> None:
    """Each log event whose action is in the runbook is named there."""
    for event in (each for events in EVENTS.values() for each in events.values()):
        assert "runbook" not in event.action or f"`{event.name}`" in RUNBOOK, event.name


def test_the_runbook_names_metrics_that_there_are() -> None:
    """Each metric in the runbook exists."""
    known = {name for metrics in METRICS.values() for name in metrics}
    named = set(re.findall(r"\b(?:outbox|links)_[a-z_]+\b", RUNBOOK)) - TABLES
    assert {name for name in named if not {name, f"{name}_total"} & known} == set()


def test_the_runbook_names_errors_that_there_are() -> None:
    """Each error in the runbook exists, as a `problem` or as a kind in the metric."""
    named = set(re.findall(r"problem=(\w+)|kind=\"(\w+)\"", RUNBOOK))
    source = "".join(path.read_text() for path in sources())
    for name in {each for pair in named for each in pair if each}:
        known = any(hasattr(module, name) for module in (builtins, aiokafka.errors, asyncpg))
        assert known or f"class {name}(" in source, name


@pytest.mark.parametrize("name", TEXTS)
def test_commands_and_options_exist(name: str) -> None:
    """Each command and option in a text for operators exists."""
    text = (TOP / name).read_text()
    programs: dict[str, Any] = {
        "service": typer.main.get_command(service.app),
        "outbox_worker": typer.main.get_command(worker.app),
    }
    quoted = re.findall(r"`([^`\n]+)`", text) if name.endswith(".md") else text.splitlines()
    quoted += [line for block in re.findall(r"^```sh\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
               for line in block.splitlines()]  # fmt: skip
    for piece in quoted:
        for program, verb, rest in COMMAND.findall(piece):
            if verb not in programs[program].commands:
                assert not piece.startswith(("python -m", program)), piece
                continue
            command = programs[program].commands[verb]
            for word in re.findall(r"[a-z]+", rest):
                command = getattr(command, "commands", {}).get(word, command)
            options = {option for each in command.params for option in each.opts}
            assert set(re.findall(r"--[a-z-]+", rest)) <= options, piece
