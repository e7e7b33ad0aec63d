"""The commands that remove data: `erase`, `workspaces list` and `workspaces delete`."""

import sys
import time
from collections.abc import Callable
from typing import Annotated, Final

import typer
from rich.table import Table

from service.core.ids import ENTITY_TYPES, valid_id
from service.core.values import EntityKey
from service.store.database import Database
from service.store.erasing.erase import erasing
from service.store.erasing.rows import Removed
from service.store.erasing.workspaces import delete_workspace, find_workspace, list_workspaces
from service.terminal import fail, print_table, report, run, shown

REMAINS: Final = """\
What remains elsewhere:
  the outbox     the events, for OUTBOX_RETENTION_DAYS
  the topic      the events, for ever by default: ids of documents, entities, keys and requests, and roles
  the database   {tombstones}; dead rows until the next vacuum; WAL
  logs, backups  as long as they are kept
deploy/runbook.md, "Erasing data", says how to deal with each of them."""
TOMBSTONES: Final = "a hash of each erased document's id, with its version"
NO_TOMBSTONES: Final = "nothing of the workspace"

PROGRESS_S: Final = 1.0
"""The shortest time between two lines that show the progress."""

Confirmation = Annotated[
    str | None,
    typer.Option(
        "--confirm", help="The workspace's name, instead of the question.", metavar="NAME"
    ),
]

workspaces = typer.Typer(no_args_is_help=True, help="Workspaces.")


def erase(
    workspace: Annotated[str, typer.Option(help="The workspace's name or id.")],
    document: Annotated[str | None, typer.Option(help="The id of one document.")] = None,
    entity: Annotated[str | None, typer.Option(help="One entity, as TYPE/ID.")] = None,
    confirm: Confirmation = None,
) -> None:
    """Delete a document, an entity, or all of a workspace, and remove the rows; run it again to continue.

    The deletion emits the events that are due. The workspace itself and its keys stay.
    """
    if document is not None and entity is not None:
        raise typer.BadParameter("give --document or --entity, or neither for the whole workspace")
    if document is not None and not valid_id(document):
        raise typer.BadParameter(f"{document!r} is no document's id")
    entity_type, _, entity_id = (entity or "").partition("/")
    if entity is not None and not (entity_type in ENTITY_TYPES and valid_id(entity_id)):
        types = ", ".join(sorted(ENTITY_TYPES))
        raise typer.BadParameter(f"{entity!r} is not TYPE/ID, with one of the types {types}")
    workspace_id, name = _found(workspace)
    if document is None and entity is None:
        _confirm(f"Everything in the workspace {name} will be erased.", name, confirm)

    async def work(database: Database) -> Removed:
        async with erasing(database, workspace_id) as eraser:
            if document is not None:
                await eraser.document(document)
            elif entity is not None:
                await eraser.entity(EntityKey(workspace_id, entity_type, entity_id))
            else:
                await eraser.everything(_progress())
        return eraser.removed

    _report(run(work), TOMBSTONES)


@workspaces.command("list")
def list_() -> None:
    """Show the workspaces: name, id, and how many keys are not revoked."""
    table = Table("name", "id", "created", "keys")
    for each in run(list_workspaces):
        table.add_row(each.name, each.id, shown(each.created_at), str(each.keys))
    print_table(table)


@workspaces.command()
def delete(
    workspace: Annotated[str, typer.Argument(help="The workspace's name or id.")],
    confirm: Confirmation = None,
) -> None:
    """Revoke a workspace's keys, erase everything in it, and remove it; run it again to continue.

    It takes at least 30 s after the last revocation, until no process uses a key any more.
    """
    workspace_id, name = _found(workspace)
    _confirm(f"The workspace {name} will be deleted, with everything in it.", name, confirm)
    removed = run(lambda database: delete_workspace(database, workspace_id, _progress()))
    _report(removed, NO_TOMBSTONES)


def _found(workspace: str) -> tuple[str, str]:
    """Return the id and the name of a workspace; exit if there is none with that name or id."""
    found = run(lambda database: find_workspace(database, workspace))
    if found is None:
        fail(f"there is no workspace {workspace}: `workspaces list` shows them")
    return found


def _confirm(what: str, name: str, given: str | None) -> None:
    """Exit unless the workspace's name is given, or typed as the answer to a question."""
    if given is None:
        if sys.stdin is None or not sys.stdin.isatty():
            fail(f"{what} There is no terminal to ask at: add --confirm with the workspace's name")
        given = typer.prompt(f"{what} This cannot be undone. Type its name to continue", err=True)
    if given != name:
        fail(f"the workspace's name is {name}, not {given}: nothing was done")


def _progress() -> Callable[[Removed], None]:
    """Return a function that prints the numbers of removed rows, at most once in PROGRESS_S."""
    printed = time.monotonic()

    def show(removed: Removed) -> None:
        nonlocal printed
        if time.monotonic() - printed >= PROGRESS_S:
            printed = time.monotonic()
            report(_counted(removed))

    return show


def _report(removed: Removed, tombstones: str) -> None:
    print(f"{_counted(removed)}\n{REMAINS.format(tombstones=tombstones)}")


def _counted(removed: Removed) -> str:
    return (
        f"removed: documents {removed.documents}, links {removed.links}, "
        f"entities {removed.entities}, stored replies {removed.replies}"
    )
