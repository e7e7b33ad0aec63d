"""Settings, errors and output of every command: one line for an error, JSON or text, a progress bar."""

import asyncio
import os
import sys
import time
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Annotated, Any, NoReturn, TypeVar

import asyncpg
import msgspec
import typer
from aiokafka.errors import KafkaError
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from outbox_worker import logs
from outbox_worker.command_line import FAILED as FAILED
from outbox_worker.command_line import USAGE as USAGE
from outbox_worker.command_line import printable
from outbox_worker.environment import SettingsError
from outbox_worker.postgres.registration import NO_SCHEMA, RefusedError
from outbox_worker.postgres.sessions import ERRORS, UnusableUrlError
from outbox_worker.postgres.task_progress import InterruptedByOperator
from outbox_worker.settings import Settings, read

T = TypeVar("T")
R = TypeVar("R", bound=msgspec.Struct)
JSON_OPTION = "--json"
LINE_INTERVAL_S = 10
"""The time between two lines of progress if standard error is no terminal, such as a log."""
# aiokafka logs each retry, several times; the worker logs a line for each change of state.
LOG_LEVELS = {"outbox_worker": "info", "aiokafka": "critical"}

Json = Annotated[bool, typer.Option(JSON_OPTION, help="Print one JSON object instead of text.")]
Yes = Annotated[bool, typer.Option("--yes", help="Do not ask.")]
Resume = Annotated[
    bool,
    typer.Option("--resume", help="Go on where the interrupted run with these options stopped."),
]

console = Console(highlight=False)
Step = Callable[[int], None]


def settings() -> Settings:
    """Return the settings in the environment, or end with a line for each problem."""
    try:
        return read(os.environ)
    except SettingsError as error:
        report(*str(error).splitlines())
        raise typer.Exit(USAGE) from None


def fail(message: str, code: int = FAILED) -> NoReturn:
    """Report an error and exit with the code."""
    report(message)
    raise typer.Exit(code)


def report(*messages: str) -> None:
    """Print a line for each message on standard error; with --json, one object on standard output."""
    lines = [printable(message) for message in messages]
    for line in lines:
        typer.echo(f"outbox_worker: {line}", err=True)
    if JSON_OPTION in sys.argv:
        typer.echo(msgspec.json.encode({"error": "\n".join(lines)}).decode())


def carry_out(work: Coroutine[Any, Any, T], *, unfinished: Callable[[], str] = lambda: "") -> T:
    """Return what the work returns, or end with one line for an error.

    `unfinished` says what an interruption leaves behind, and how to go on; it is added to that line.
    """
    logs.set_up("warning", **LOG_LEVELS)
    try:
        return asyncio.run(work)
    except (RefusedError, UnusableUrlError) as refusal:
        fail(str(refusal))
    except (KeyboardInterrupt, asyncio.CancelledError, InterruptedByOperator):
        fail("; ".join(filter(None, ["interrupted", unfinished()])))
    except (*ERRORS, KafkaError) as error:
        fail("; ".join(filter(None, [_with_advice(error), unfinished()])))


def _with_advice(error: BaseException) -> str:
    """Return an error in one line, with a remedy where its type tells one."""
    if isinstance(error, asyncpg.UndefinedTableError):
        return NO_SCHEMA
    if isinstance(error, asyncpg.PostgresError):
        return f"the database refuses: {logs.reason(error)}; `python -m outbox_worker doctor` says more"
    if isinstance(error, OSError) and not isinstance(error, TimeoutError):
        return f"the database cannot be reached: {logs.reason(error)}; check DATABASE_URL and the server"
    return logs.reason(error)


def show(report: R, text: Callable[[R], None], *, as_json: bool) -> None:
    """Print a report as JSON, or as `text` prints it."""
    if as_json:
        typer.echo(msgspec.json.encode(report).decode())
    else:
        text(report)


def say(text: str) -> None:
    """Print a line without wrapping it."""
    console.print(text, soft_wrap=True)


def note(text: str) -> None:
    """Print a line on standard error, unless the output is JSON."""
    if JSON_OPTION not in sys.argv:
        typer.echo(f"outbox_worker: {text}", err=True)


def utc(seconds: float) -> str:
    """Return a time, in seconds since 1970, as text."""
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="seconds")


def confirmed(question: str, *, yes: bool) -> None:
    """Ask for confirmation unless `yes`; exit with 1 if it is denied, or if there is no terminal."""
    if yes:
        return
    if sys.stdin is None or not sys.stdin.isatty():
        fail(f"{question} There is no terminal to ask at: add --yes")
    if not typer.confirm(question, err=True):
        fail("nothing was done")


@contextmanager
def progress_bar(text: str, total: int | None, *, shown: bool, done: int = 0) -> Iterator[Step]:
    """Yield a function that advances the progress, which is shown on standard error.

    On a terminal it is a bar, in one line that is rewritten; elsewhere a line every LINE_INTERVAL_S.
    """
    errors = Console(stderr=True)
    if not errors.is_terminal:
        yield _progress_lines(text, total, done) if shown else lambda _: None
        return
    columns = (TextColumn(text), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=errors, transient=True, disable=not shown) as progress:
        task = progress.add_task(text, total=total, completed=done)
        yield lambda steps: progress.advance(task, steps)


def _progress_lines(text: str, total: int | None, done: int) -> Step:
    due = time.monotonic() + LINE_INTERVAL_S

    def step(steps: int) -> None:
        nonlocal done, due
        done += steps
        if time.monotonic() >= due:
            due = time.monotonic() + LINE_INTERVAL_S
            share = "" if not total else f" of {total} ({min(100, 100 * done // total)} %)"
            typer.echo(f"outbox_worker: {text}: {done}{share}", err=True)

    return step
