"""The command line: `python -m service serve | migrate | doctor | keys | erase | workspaces`."""

import asyncio
import os
import re
import sys
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from typing import Annotated, Final

import typer
from rich.table import Column, Table

from service import command_line, erasing, logs
from service.core.errors import Unavailable
from service.doctor.command import doctor
from service.release import VERSION
from service.server import serving
from service.settings import RATE, is_rate, read_settings
from service.store.database import USE_A_POOLER_THAT_KEEPS_THEM, Database, unavailable
from service.store.keys import (
    ID_LENGTH,
    create_key,
    create_next_key,
    end_key,
    list_keys,
    revoke_key,
    revoke_lost_key,
    workspace_exists,
)
from service.store.migrations.apply import migrate as migrate_schema
from service.store.migrations.plan import plan as planned
from service.terminal import (
    errors_as_one_line,
    fail,
    print_table,
    report,
    run,
    shown,
    with_database,
    workspace_name,
)

SCOPES: Final = ("read:documents", "write:documents")

COLUMNS: Final = ("workspace", "scopes", "rate limit", "created", "expires", "revoked", "last used")
OVERLAP: Final = timedelta(days=7)
"""The time until the old key expires, if none is given. It covers callers that are released once a week."""
KEY_ID: Final = re.compile(r"[A-Za-z0-9_]{1,64}")
KEY_ID_WIDTH: Final = len("key_") + ID_LENGTH

log = logs.get_logger("service")

app = typer.Typer(
    add_completion=False,
    no_args_is_help=True,
    pretty_exceptions_enable=False,  # its tracebacks show local variables, such as the database's password
)
keys = typer.Typer(no_args_is_help=True, help="API keys.")
app.add_typer(keys, name="keys")
app.command()(doctor)
app.command()(erasing.erase)
app.add_typer(erasing.workspaces, name="workspaces")


@app.callback()
def main(*, version: Annotated[bool, command_line.version_option(VERSION)] = False) -> None:
    """Serve links between documents and resources; manage the schema and the keys."""


@app.command()
def serve() -> None:
    """Serve the API until SIGTERM or Ctrl-C. Settings come from the environment."""
    with errors_as_one_line():
        settings = read_settings(os.environ)
        logs.set_up(settings.links_log_level)
        log.info("service.starting", version=VERSION)
        # Connecting here gives one line for a wrong DATABASE_URL. Each worker would log a traceback.
        asyncio.run(with_database(settings, _warn_of_a_pooler))
        serving.serve(settings)


@app.command()
def migrate(
    plan: Annotated[  # noqa: FBT002 - a flag of the command line
        bool, typer.Option("--plan", help="Only print the due steps, with the locks they take.")
    ] = False,
) -> None:
    """Bring the database to this program's schema, while programs run; repeat it after an interruption."""
    print(run(planned if plan else migrate_schema, needs_schema=False))


@keys.command("create")
def create(
    workspace: Annotated[str, typer.Option(help="The workspace's name. A new one is created.")],
    scope: Annotated[
        list[str] | None, typer.Option(help=f"{' or '.join(SCOPES)}; default: both.")
    ] = None,
    rate_limit: Annotated[str | None, typer.Option(help='Like "1000/minute".')] = None,
    expires_at: Annotated[
        str | None, typer.Option(help="In ISO 8601; UTC if it has no offset.")
    ] = None,
) -> None:
    """Make a key and print it alone on standard output. It is not shown again."""
    scopes = list(dict.fromkeys(scope or SCOPES))
    if unknown := sorted(set(scopes) - set(SCOPES)):
        raise typer.BadParameter(
            f"unknown scope {unknown[0] or repr('')}: it is one of {', '.join(SCOPES)}"
        )
    rate, expiry, name = _rate(rate_limit), _time(expires_at), workspace_name(workspace)

    async def make(database: Database) -> None:
        key = await create_key(database, name, scopes=scopes, rate_limit=rate, expires_at=expiry)
        await _print_or_revoke(database, key)

    run(make)


@keys.command("list")
def list_(
    workspace: Annotated[
        str | None, typer.Option(help="The workspace's name; default: all.")
    ] = None,
) -> None:
    """Show the ids of the keys, what each may do and when it was last used, never the keys themselves.

    The last use has the precision of an hour. It is unknown as long as no use was recorded.
    """
    name = None if workspace is None else workspace_name(workspace)
    found = run(lambda db: list_keys(db, name))
    if name is not None and not found and not run(lambda db: workspace_exists(db, name)):
        print(f"there is no workspace {name}: `keys create` makes one", file=sys.stderr)
    table = Table(
        Column("id", no_wrap=True, min_width=KEY_ID_WIDTH),
        *(Column(name, overflow="fold") for name in COLUMNS),
    )
    for key in found:
        times = [shown(time) for time in (key.created_at, key.expires_at, key.revoked_at)]
        used = (
            "unknown" if key.last_used_at is None else key.last_used_at.isoformat(timespec="hours")
        )
        limit = key.rate_limit or "default"
        table.add_row(key.id, key.workspace, " ".join(key.scopes), limit, *times, used)
    print_table(table)


@keys.command()
def rotate(
    key_id: Annotated[str, typer.Argument(help="The id that `keys list` shows.")],
    old_expires_at: Annotated[
        str | None,
        typer.Option(help=f"The old key's end, in ISO 8601; default: in {OVERLAP.days} days."),
    ] = None,
    expires_at: Annotated[
        str | None, typer.Option(help="The new key's end, in ISO 8601; default: none.")
    ] = None,
) -> None:
    """Make the next key, with the workspace, scopes and rate limit of the old one; print it alone.

    The old key then expires, so that its callers have time to change to the new one.
    """
    _check_key_id(key_id)
    old_expiry = _time(old_expires_at) or datetime.now(UTC) + OVERLAP
    expiry = _time(expires_at)

    async def make(database: Database) -> datetime:
        key = await create_next_key(database, key_id, expires_at=expiry)
        if key is None:
            fail(f"there is no key {key_id} that is not revoked: `keys list` shows the ids")
        # First, because the old key must not end unless the new one is known to the caller.
        await _print_or_revoke(database, key)
        return await end_key(database, key_id, old_expiry)

    print(f"{key_id} expires at {shown(run(make))}", file=sys.stderr)


@keys.command()
def revoke(key_id: Annotated[str, typer.Argument(help="The id that `keys list` shows.")]) -> None:
    """Revoke a key; every process refuses it within 10 s."""
    _check_key_id(key_id)
    done = run(lambda db: revoke_key(db, key_id))
    if not done:
        fail(f"there is no key {key_id}: `keys list` shows the ids")
    since = "" if done is True else f" since {shown(done)}"
    print(f"{key_id} is revoked{since}")


async def _print_or_revoke(database: Database, key: str) -> None:
    """Print a new key on standard output; if that fails, revoke it and exit with 1."""
    try:
        print(key, flush=True)
    except OSError as error:
        await revoke_lost_key(database, key)
        command_line.discard_output()
        fail(f"the key could not be written, so it is revoked: {error.strerror}")


def _check_key_id(text: str) -> None:
    if text.startswith("wbk_"):
        raise typer.BadParameter("this is a key, not its id: `keys list` shows the ids")
    if not KEY_ID.fullmatch(text):
        raise typer.BadParameter(f"{text!r} is no key's id: `keys list` shows the ids")


async def _warn_of_a_pooler(database: Database) -> None:
    """Log that the service will not be ready behind this pooler. It starts, as the pooler may be replaced."""
    with suppress(Unavailable), unavailable():
        if not await database.keeps_statements():
            log.error("database.statements_lost", detail=USE_A_POOLER_THAT_KEEPS_THEM)


def _rate(text: str | None) -> str | None:
    if text is not None and not is_rate(text):
        raise typer.BadParameter(f"a rate limit is {RATE}")
    return text


def _time(text: str | None) -> datetime | None:
    if text is None:
        return None
    try:
        time = datetime.fromisoformat(text)
        return time.astimezone(UTC) if time.tzinfo else time.replace(tzinfo=UTC)
    except (ValueError, OverflowError):  # OverflowError: in UTC it is not in the years 1 to 9999
        raise typer.BadParameter("a time has the form 2030-01-31T12:00:00Z") from None


if __name__ == "__main__":
    command_line.main(app, "python -m service", report)
