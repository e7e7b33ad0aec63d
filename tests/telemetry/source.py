"""Finds in the code of both programs what is logged."""

import ast
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

PROGRAMS = ("service", "outbox_worker")
DYNAMIC = "log"
"""The method whose first argument is the level; the event is the second."""
METHODS = {"debug", "info", "warning", "error", "exception", "critical", DYNAMIC}


class Logged(NamedTuple):
    """A call that logs. `level` is None if it is an expression; `fields` has None for `**fields`."""

    program: str
    where: str
    event: str | None
    level: str | None
    fields: frozenset[str | None]


def sources() -> Iterator[tuple[str, Path]]:
    """Yield each program and its source files."""
    top = Path(__file__).parents[2]
    for program in PROGRAMS:
        for path in sorted((top / program).rglob("*.py")):
            yield program, path


def log_calls() -> Iterator[Logged]:
    """Yield each call of a logger in either program."""
    for program, path in sources():
        for node in ast.walk(ast.parse(path.read_text())):
            match node:
                case ast.Call(
                    func=ast.Attribute(
                        value=ast.Name(id="log") | ast.Attribute(attr="_log"), attr=method
                    )
                ) if method in METHODS:
                    yield _logged(program, f"{path.name}:{node.lineno}", method, node)


def lasting_problems() -> Iterator[tuple[str, str, str]]:
    """Yield program and the two events, failed and recovered, of each lasting problem."""
    for program, path in sources():
        for node in ast.walk(ast.parse(path.read_text())):
            match node:
                case ast.Call(
                    func=ast.Name(id="LastingProblem"),
                    args=[_, ast.Constant(value=str(failed)), ast.Constant(value=str(recovered))],
                ):
                    yield program, failed, recovered


def loggers() -> Iterator[str | None]:
    """Yield the name that each logger is assigned to, None if it is not assigned."""
    for _, path in sources():
        tree = ast.parse(path.read_text())
        assigned = {
            each.value: each.targets[0].id
            for each in ast.walk(tree)
            if isinstance(each, ast.Assign) and isinstance(each.targets[0], ast.Name)
        }
        for node in ast.walk(tree):
            match node:
                case ast.Call(func=ast.Name(id="get_logger") | ast.Attribute(attr="get_logger")):
                    yield assigned.get(node)


def _logged(program: str, where: str, method: str, call: ast.Call) -> Logged:
    name = call.args[1] if method == DYNAMIC else call.args[0]
    event = str(name.value) if isinstance(name, ast.Constant) else None
    fields = {"exception" if each.arg == "exc_info" else each.arg for each in call.keywords}
    if method == "exception":
        fields.add("exception")
    level = {DYNAMIC: None, "exception": "error"}.get(method, method)
    return Logged(program, where, event, level, frozenset(fields))
