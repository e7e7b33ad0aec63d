"""What the commands share: a database to work with, errors in one line, and output as a table."""

import asyncio
import os
import sys
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from datetime import datetime
from typing import Final, NoReturn, TypeVar

import asyncpg
import typer
from rich.console import Console
from rich.table import Table

from service import command_line, logs
from service.core.errors import Unavailable
from service.environment import SettingsError
from service.logs import first_line
from service.server.serving import CannotServeError
from service.settings import Settings, read_settings
from service.store.database import Database
from service.store.migrations.version import SchemaError, check_version
from service.store.postgres.connection import EncodingError
from service.store.postgres.tls import TlsError
from service.store.postgres.url import UrlError

POOL_SIZE: Final = 10
"""Connections of a command: `migrate` needs two, `erase` one for each document that it deletes at a time."""
UNFOLDED_WIDTH: Final = 10_000
"""Columns of the table if standard output is not a terminal: more than any line has."""

T = TypeVar("T")


def run(work: Callable[[Database], Awaitable[T]], *, needs_schema: bool = True) -> T:
    """Run the work with a database, and return its result; exit with one line for an error."""

    async def checked(database: Database) -> T:
        async with database.acquire() as connection:
            await check_version(connection)
        return await work(database)

    with errors_as_one_line():
        settings = read_settings(os.environ)
        logs.set_up("warning")
        try:
            return asyncio.run(with_database(settings, checked if needs_schema else work))
        except KeyboardInterrupt:
            fail("interrupted")


async def with_database(settings: Settings, work: Callable[[Database], Awaitable[T]]) -> T:
    """Run the work with a database."""
    async with Database(settings.database_url, pool_size=POOL_SIZE) as database:
        try:
            await database.try_to_connect()
        except (UrlError, TlsError) as error:
            raise SettingsError(f"DATABASE_URL: {error}") from None
        except EncodingError as error:
            raise SchemaError(str(error)) from None
        return await work(database)


@contextmanager
def errors_as_one_line() -> Iterator[None]:
    """Exit with one line for an error whose cause is outside the program."""
    try:
        yield
    except SettingsError as error:
        fail(str(error), command_line.USAGE)
    except (SchemaError, CannotServeError) as error:
        fail(str(error))
    except Unavailable as error:
        cause = error.__cause__
        if isinstance(cause, asyncpg.PostgresError):
            fail(f"the database refuses: {first_line(cause)}")
        fail(f"{error.detail}: {first_line(cause)}; check DATABASE_URL" if cause else error.detail)
    except asyncpg.PostgresError as error:
        fail(f"the database refuses: {first_line(error)}")


def report(message: str) -> None:
    """Print an error on standard error."""
    print(message, file=sys.stderr)


def fail(message: str, code: int = command_line.FAILED) -> NoReturn:
    """Print an error, and exit with the code."""
    report(message)
    raise typer.Exit(code)


def workspace_name(workspace: str) -> str:
    """Return the name of a workspace; raise BadParameter if no workspace can have it."""
    if not (1 <= len(workspace) <= 128 and workspace.isprintable()):  # noqa: PLR2004 - workspaces_name_check
        raise typer.BadParameter("a workspace's name has 1 to 128 characters, all printable")
    return workspace


def shown(time: datetime | None) -> str:
    """Return a time in ISO 8601; an empty text for None."""
    return "" if time is None else time.isoformat(timespec="seconds")


def print_table(table: Table) -> None:
    """Print a table; if standard output is not a terminal, each row is one line."""
    width = None if sys.stdout and sys.stdout.isatty() else UNFOLDED_WIDTH
    Console(width=width, markup=False, emoji=False, highlight=False).print(table)
