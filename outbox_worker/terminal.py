"""What every command shares at a terminal: settings, one line for an error, JSON or text, a bar."""

import asyncio
import os
import sys
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager
from typing import Annotated, Any, NoReturn, TypeVar

import msgspec
import typer
from aiokafka.errors import KafkaError
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from outbox_worker import logs
from outbox_worker.registration import RefusedError
from outbox_worker.sessions import ERRORS, UnusableUrlError
from outbox_worker.settings import Settings, SettingsError, read

T = TypeVar("T")
R = TypeVar("R", bound=msgspec.Struct)
FAILED = 1
USAGE = 2

Json = Annotated[bool, typer.Option("--json", help="Print one JSON object instead of text.")]
Yes = Annotated[bool, typer.Option("--yes", help="Do not ask.")]

console = Console(highlight=False)
Step = Callable[[int], None]


def settings() -> Settings:
    """Return the settings in the environment, or end with what is wrong with it."""
    try:
        return read(os.environ)
    except SettingsError as error:
        fail(str(error), USAGE)


def fail(message: str, code: int = FAILED) -> NoReturn:
    """End with one clear line."""
    typer.echo(f"outbox_worker: {message}", err=True)
    raise typer.Exit(code)


def carry_out(work: Coroutine[Any, Any, T]) -> T:
    """Return what the work returns, or end with one line about what is in its way."""
    logs.configure()
    try:
        return asyncio.run(work)
    except (RefusedError, UnusableUrlError) as refusal:
        fail(str(refusal))
    except KeyboardInterrupt:
        fail("interrupted")
    except (*ERRORS, KafkaError) as error:
        fail(said(error))


def said(error: BaseException) -> str:
    """Return an error in one piece: its kind, and its words where it has any."""
    return f"{type(error).__name__}: {error}".rstrip(": ")


def show(report: R, text: Callable[[R], None], *, as_json: bool) -> None:
    """Print a report in the form that was asked for."""
    if as_json:
        typer.echo(msgspec.json.encode(report).decode())
    else:
        text(report)


def say(text: str) -> None:
    """Print a line, however long."""
    console.print(text, soft_wrap=True)


def confirmed(question: str, *, yes: bool) -> None:
    """Ask, unless told not to; end with 1 at a no, and where nobody can be asked."""
    if yes:
        return
    if not sys.stdin.isatty():
        fail(f"{question} Say --yes to go on")
    if not typer.confirm(question):
        fail("nothing was done")


@contextmanager
def progress_bar(text: str, total: int | None, *, shown: bool) -> Iterator[Step]:
    """Yield what to call with each step; the bar is on standard error, where that is a terminal."""
    errors = Console(stderr=True)
    columns = (TextColumn(text), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(
        *columns, console=errors, transient=True, disable=not (shown and errors.is_terminal)
    ) as progress:
        task = progress.add_task(text, total=total)
        yield lambda steps: progress.advance(task, steps)
