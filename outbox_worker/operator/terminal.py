"""What the commands have in common: settings, one line for an error, JSON or text, a progress bar."""

import asyncio
import contextlib
import io
import os
import sys
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager
from typing import Annotated, Any, NoReturn, TypeVar

import asyncpg
import msgspec
import typer
from aiokafka.errors import KafkaError
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from outbox_worker import logs
from outbox_worker.postgres.registration import NO_SCHEMA, RefusedError
from outbox_worker.postgres.sessions import ERRORS, UnusableUrlError
from outbox_worker.settings import Settings, SettingsError, read

T = TypeVar("T")
R = TypeVar("R", bound=msgspec.Struct)
FAILED = 1
USAGE = 2
# Typer's own base class of usage errors; which module has it depends on Typer's version.
UsageError: Any = typer.BadParameter.__base__
JSON_OPTION = "--json"
# aiokafka logs each retry, several times; the worker logs a line for each change of state.
LOG_LEVELS = {"outbox_worker": "info", "aiokafka": "critical"}

Json = Annotated[bool, typer.Option(JSON_OPTION, help="Print one JSON object instead of text.")]
Yes = Annotated[bool, typer.Option("--yes", help="Do not ask.")]

console = Console(highlight=False)
Step = Callable[[int], None]


def main(app: typer.Typer, name: str) -> NoReturn:
    """Run the command line and exit: 0, 1 if it failed, 2 for wrong usage. An error is one line."""
    _escape_what_cannot_be_encoded()
    command = typer.main.get_command(app)
    try:
        code = command.main(prog_name=name, standalone_mode=False)
        if sys.stdout is not None:  # it is None where it was closed, as by `>&-`
            sys.stdout.flush()  # here, because a failure at the interpreter's end is a traceback
    except UsageError as error:
        text = error.format_message()
        if text and "\n" not in text:  # else the help, shown because no command was given
            _report(
                f"{text.rstrip('.')}; see {error.ctx.command_path if error.ctx else name} --help"
            )
        code = USAGE
    except typer.Abort:
        _report("nothing was done")
        code = FAILED
    except OSError as error:
        code = FAILED
        _discard_output()
        if not isinstance(error, BrokenPipeError):  # as after `| head`: the reader has seen enough
            typer.echo(f"outbox_worker: the output cannot be written: {error.strerror}", err=True)
    sys.exit(code)


def _escape_what_cannot_be_encoded() -> None:
    """Show text that the locale's encoding lacks as escapes: the default is a traceback."""
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")


def _discard_output() -> None:
    """Let the interpreter's last flush of standard output succeed."""
    with contextlib.suppress(OSError, ValueError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def settings() -> Settings:
    """Return the settings in the environment, or end with what is wrong with it."""
    try:
        return read(os.environ)
    except SettingsError as error:
        fail(str(error), USAGE)


def fail(message: str, code: int = FAILED) -> NoReturn:
    """End with one clear line; with --json, standard output gets an object with the same text."""
    _report(message)
    raise typer.Exit(code)


def _report(message: str) -> None:
    message = _printable(message)
    typer.echo(f"outbox_worker: {message}", err=True)
    if JSON_OPTION in sys.argv:
        typer.echo(msgspec.json.encode({"error": message}).decode())


def _printable(text: str) -> str:
    """Return the text in one line of valid Unicode: an argument may hold any byte."""
    return "".join(each if each.isprintable() else ascii(each)[1:-1] for each in text)


def carry_out(work: Coroutine[Any, Any, T], *, unfinished: str = "") -> T:
    """Return what the work returns, or end with one line about what is in its way.

    `unfinished` is added to that line: what an interruption leaves behind.
    """
    logs.set_up("warning", **LOG_LEVELS)
    after = f"; {unfinished}" if unfinished else ""
    try:
        return asyncio.run(work)
    except (RefusedError, UnusableUrlError) as refusal:
        fail(str(refusal))
    except KeyboardInterrupt:
        fail(f"interrupted{after}")
    except (*ERRORS, KafkaError) as error:
        fail(f"{_with_advice(error)}{after}")


def _with_advice(error: BaseException) -> str:
    """Return an error in one line, with what to do where its kind tells."""
    if isinstance(error, asyncpg.UndefinedTableError):
        return NO_SCHEMA
    if isinstance(error, asyncpg.PostgresError):
        return f"the database refuses: {said(error)}; `python -m outbox_worker doctor` says more"
    if isinstance(error, OSError) and not isinstance(error, TimeoutError):
        return f"the database cannot be reached: {said(error)}; check DATABASE_URL and the server"
    return said(error)


def said(error: BaseException) -> str:
    """Return an error in one line: its kind, and the first line of its text if it has any."""
    text = str(error).partition("\n")[0]  # Postgres' further lines quote rows
    return f"{type(error).__name__}: {text}".rstrip(": ")


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
    if sys.stdin is None or not sys.stdin.isatty():
        fail(f"{question} There is no terminal to ask at: say --yes to go on")
    if not typer.confirm(question, err=True):
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
