"""Ends the command line in one line: wrong usage, and output that cannot be written."""

import contextlib
import io
import os
import sys
from typing import Any, Final, NoReturn

import typer

UsageError: Final[Any] = typer.BadParameter.__base__
"""Typer's own base class of usage errors; which module has it depends on Typer's version."""


def main(app: typer.Typer, name: str) -> NoReturn:
    """Run the command line and exit: 0, 1 if it failed, 2 for wrong usage. An error is one line."""
    _escape_what_cannot_be_encoded()
    code: int | None
    try:
        code = typer.main.get_command(app).main(prog_name=name, standalone_mode=False)
        if sys.stdout is not None:  # it is None where it was closed, as by `>&-`
            sys.stdout.flush()  # here, because a failure at the interpreter's end is a traceback
    except UsageError as error:
        text = error.format_message()
        if text and "\n" not in text:  # else the help, shown because no command was given
            command = error.ctx.command_path if error.ctx else name
            print(_printable(f"{text.rstrip('.')}; see {command} --help"), file=sys.stderr)
        code = 2
    except OSError as error:
        discard_output()
        if not isinstance(error, BrokenPipeError):  # as after `| head`: the reader has seen enough
            print(f"the output cannot be written: {error.strerror}", file=sys.stderr)
        code = 1
    sys.exit(code)


def _escape_what_cannot_be_encoded() -> None:
    """Show text that the locale's encoding lacks as escapes: the default is a traceback."""
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")


def discard_output() -> None:
    """Let the interpreter's last flush of standard output succeed."""
    with contextlib.suppress(OSError, ValueError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _printable(text: str) -> str:
    """Return the text in one line of valid Unicode: an argument may hold any byte."""
    return "".join(each if each.isprintable() else ascii(each)[1:-1] for each in text)
