"""The end of a command: its exit code, and one line for an error. Both programs have the same file."""

import contextlib
import io
import os
import sys
from collections.abc import Callable
from typing import Any, Final, NoReturn

import typer
from typer.models import OptionInfo

FAILED: Final = 1
USAGE: Final = 2
"""The exit code of wrong usage and of wrong settings."""
UsageError: Final[Any] = typer.BadParameter.__base__
"""Typer's own base class of usage errors; which module has it depends on Typer's version."""


def main(app: typer.Typer, name: str, report: Callable[[str], None]) -> NoReturn:
    """Run the command line and exit; `report` prints an error."""
    if isinstance(sys.stdout, io.TextIOWrapper):  # text that its encoding lacks is shown as escapes
        sys.stdout.reconfigure(errors="backslashreplace")
    code: int | None = FAILED
    try:
        code = typer.main.get_command(app).main(prog_name=name, standalone_mode=False)
        if sys.stdout is not None:  # None: it was closed, as by `>&-`
            sys.stdout.flush()  # here, because a failure at the interpreter's end is a traceback
    except UsageError as error:
        text = error.format_message()
        if text and "\n" not in text:  # else the help, shown because no command was given
            command = error.ctx.command_path if error.ctx else name
            report(f"{printable(text).rstrip('.')}; see {command} --help")
        code = USAGE
    except typer.Abort:
        report("interrupted")
    except OSError as error:
        discard_output()
        if not isinstance(error, BrokenPipeError):  # else the reader, such as `head`, has ended
            report(f"the output cannot be written: {error.strerror}")
    sys.exit(code)


def version_option(version: str) -> OptionInfo:
    """Return the option `--version`, which prints the release and ends the program with 0."""

    def show(wanted: bool) -> None:  # noqa: FBT001 - Typer's form
        if wanted:
            typer.echo(f"document-links {version}")
            raise typer.Exit

    option: OptionInfo = typer.Option(
        "--version", callback=show, is_eager=True, help="Print the release."
    )
    return option


def discard_output() -> None:
    """Let the interpreter's last flush of standard output succeed."""
    with contextlib.suppress(OSError, ValueError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def printable(text: str) -> str:
    """Return a text in one line of valid Unicode: an argument may hold any byte."""
    return "".join(each if each.isprintable() else ascii(each)[1:-1] for each in text)
