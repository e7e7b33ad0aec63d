"""The runbook and other texts for operators name what exists, and all failures."""

import ast
import builtins
import logging
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import aiokafka.errors
import asyncpg
import pytest
import typer
from prometheus_client import generate_latest

from outbox_worker import __main__ as worker
from outbox_worker.relay.metrics import Metrics as WorkerMetrics
from service import __main__ as service
from service.described.snapshots import MARKER_TYPES
from service.edge.gate.metrics import Metrics as ServiceMetrics

TOP = Path(__file__).parents[2]
RUNBOOK = (TOP / "deploy" / "runbook.md").read_text()
TEXTS = ("README.md", "deploy/runbook.md", "deploy/backup.md", "deploy/sizing.md",
         "deploy/debezium/README.md", "deploy/compose.yaml", "deploy/kubernetes.yaml",
         "deploy/Dockerfile")  # fmt: skip
TOLD = {"warning", "error", "exception", "critical"}
TABLES = {"outbox_worker", "outbox_relay", "outbox_checkpoints", "outbox_tasks"}
COMMAND = re.compile(r"(?<![\w.])(service|outbox_worker)(?: |, )([a-z]+)\b([^`\n|;(]*)")


def sources() -> list[Path]:
    """Return the source files of both programs."""
    return [path for name in ("outbox_worker", "service") for path in (TOP / name).rglob("*.py")]


def log_calls() -> Iterator[ast.Call]:
    """Yield each call of a logger in either program."""
    for path in sources():
        for node in ast.walk(ast.parse(path.read_text())):
            match node:
                case ast.Call(func=ast.Attribute(value=ast.Name(id="log" | "_log"))):
                    yield node


def logged() -> Iterator[tuple[str, str]]:
    """Yield level and name of each event that either program logs."""
    for call in log_calls():
        match call:
            case ast.Call(func=ast.Attribute(attr=level), args=[ast.Constant(value=str(name)), *_]):
                yield level, name


def test_no_field_has_the_name_of_an_attribute_of_log_records() -> None:
    """Fields become attributes of a log record, and the standard library refuses to replace its own."""
    attributes = vars(logging.makeLogRecord({})).keys() | {"message", "asctime"}
    fields = {keyword.arg for call in log_calls() for keyword in call.keywords}
    assert fields & attributes == {"exc_info"}


def test_the_runbook_names_every_failure_that_is_logged() -> None:
    """Each event that is logged as a warning or an error is in the runbook."""
    assert {
        name for level, name in logged() if level in TOLD and f"`{name}`" not in RUNBOOK
    } == set()


def test_the_runbook_names_no_event_that_is_never_logged() -> None:
    """Each event in the runbook is logged by a program."""
    named = set(re.findall(r"`([a-z_]+\.[a-z_]+)`", RUNBOOK)) - set(MARKER_TYPES)
    source = "".join(path.read_text() for path in sources())
    known = {name for _, name in logged()}
    assert {name for name in named - known if f'"{name}"' not in source} == set()


def test_the_runbook_names_metrics_that_there_are() -> None:
    """Each metric in the runbook exists, with or without the suffix of a counter."""
    offered = generate_latest(WorkerMetrics().registry) + ServiceMetrics().render()
    known = set(re.findall(r"# TYPE (\w+)", offered.decode()))
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
