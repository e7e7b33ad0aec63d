"""`erase` and `workspaces` as processes: output, exit codes, and an interruption by SIGKILL."""

import asyncio
import os
import re
import subprocess
import sys
from contextlib import suppress
from functools import partial

import asyncpg
import pytest

from deploy.local.programs import create_key
from tests.support.programs.command import forked
from tests.support.service.api import new_key, seed, serving
from tests.support.service.locks import locked
from tests.support.topic.subscriber import check_outbox
from tests.support.waiting import until

SEED = """
INSERT INTO documents (workspace_id, id, version)
SELECT w.id, 'doc_' || n, 1 FROM workspaces AS w, generate_series(1, {documents}) AS n;
INSERT INTO entities (workspace_id, type, id)
SELECT id, 'shipment', 'ship_1' FROM workspaces;
INSERT INTO document_links (workspace_id, document_id, id, entity_type, entity_id, created_at)
SELECT w.id, 'doc_' || n, gen_random_uuid(), 'shipment', 'ship_1', now()
FROM workspaces AS w, generate_series(1, {documents}) AS n
"""
LAST = "doc_99"
LEFT = "SELECT count(*) FROM documents"
ERASED = "SELECT count(*) FROM erased_documents"
REMAINS = "What remains elsewhere:"


def environment(database: str) -> dict[str, str]:
    """Return this process' environment with the database."""
    kept = {name: each for name, each in os.environ.items() if not name.startswith("LINKS_")}
    return kept | {"DATABASE_URL": database}


def command(*arguments: str) -> list[str]:
    """Return the command line of a process."""
    return [sys.executable, "-m", "service", *arguments]


WRONG: dict[tuple[str, ...], tuple[int, str]] = {
    ("erase",): (2, "--workspace"),
    ("erase", "--workspace", "none"): (1, "there is no workspace none"),
    ("erase", "--workspace", "demo"): (1, "no terminal to ask at: add --confirm"),
    ("erase", "--workspace", "demo", "--confirm", "other"): (1, "name is demo, not other"),
    ("erase", "--workspace", "demo", "--document", "a/b"): (2, "'a/b' is no document's id"),
    ("erase", "--workspace", "demo", "--entity", "ship_1"): (2, "not TYPE/ID"),
    ("erase", "--workspace", "demo", "--entity", "boat/ship_1"): (2, "not TYPE/ID"),
    ("erase", "--workspace", "demo", "--document", "a", "--entity", "deal/b"): (2, "or neither"),
    ("workspaces", "delete"): (2, "'workspace'"),
    ("workspaces", "delete", "none"): (1, "there is no workspace none"),
    ("workspaces", "delete", "demo"): (1, "no terminal to ask at: add --confirm"),
    ("workspaces", "delete", "demo", "--confirm", "other"): (1, "nothing was done"),
}


async def test_wrong_calls_change_nothing(database: str, connection: asyncpg.Connection) -> None:
    """A wrong id, an unknown workspace, a wrong name or no terminal: one line, and nothing is done."""
    create_key(database)
    await connection.execute(SEED.format(documents=2))
    done = await asyncio.to_thread(forked, "service", list(WRONG), environment(database))
    for (call, (code, words)), each in zip(WRONG.items(), done, strict=True):
        assert (each.code, each.output) == (code, ""), call
        assert words in each.errors, call
        assert "Traceback" not in each.errors
    assert await connection.fetchval(LEFT) == 2
    assert await connection.fetchval("SELECT count(*) FROM api_keys WHERE revoked_at IS NULL") == 1


async def test_what_is_erased_is_counted(database: str, connection: asyncpg.Connection) -> None:
    """`erase` prints how many rows were removed and what remains elsewhere; again it finds nothing."""
    await new_key(database)
    await seed(connection, 3, 3)
    async with serving(database) as api:
        await api.add("doc_1", "ship_1")
        await api.add("doc_2", "ship_1")
    calls = [
        ["erase", "--workspace", "test", "--document", "doc_1"],
        ["erase", "--workspace", "test", "--document", "doc_1"],
        ["erase", "--workspace", "test", "--entity", "shipment/ship_1"],
        ["erase", "--workspace", "test", "--confirm", "test"],
    ]
    counts = [(1, 1, 0), (0, 0, 0), (0, 1, 1), (2, 0, 8)]
    done = await asyncio.to_thread(forked, "service", calls, environment(database))
    for each, (documents, links, entities) in zip(done, counts, strict=True):
        assert (each.code, each.errors) == (0, "")
        first, second, *_ = each.output.splitlines()
        rows = f"documents {documents}, links {links}, entities {entities}, stored replies 0"
        assert (first, second) == (f"removed: {rows}", REMAINS)
    assert (await check_outbox(connection)).active == set()


async def test_a_killed_erasure_goes_on(database: str, connection: asyncpg.Connection) -> None:
    """After SIGKILL, the same command removes the rest, and each link has one event."""
    create_key(database)
    documents = 600
    await connection.execute(SEED.format(documents=documents))
    arguments = command("erase", "--workspace", "demo", "--confirm", "demo")

    async def begun() -> bool:
        return bool(await connection.fetchval(ERASED))

    async with locked(database, LAST):  # so that it cannot complete
        process = await asyncio.create_subprocess_exec(
            *arguments, env=environment(database), stdout=subprocess.DEVNULL
        )
        await until(begun)
        with suppress(ProcessLookupError):  # it has waited too long for the lock
            process.kill()
        await process.wait()
    assert 0 < await connection.fetchval(LEFT) < documents
    (done,) = await asyncio.to_thread(forked, "service", [arguments[3:]], environment(database))
    assert (done.code, await connection.fetchval(LEFT)) == (0, 0)
    assert await connection.fetchval(ERASED) == documents
    events = await connection.fetch("SELECT key, count(*) AS events FROM outbox GROUP BY key")
    assert len(events) == documents
    assert {row["events"] for row in events} == {1}


async def test_a_workspace_is_deleted_after_its_name_is_typed(
    database: str, connection: asyncpg.Connection
) -> None:
    """At a terminal the command asks for the name; the workspace is listed before, and then no more."""
    create_key(database)
    create_key(database, workspace="other")
    # Nobody has used the key for as long as a deletion waits after it has revoked a key.
    await connection.execute("UPDATE api_keys SET revoked_at = now() - interval '1 minute'")
    (listed,) = await asyncio.to_thread(
        forked, "service", [["workspaces", "list"]], environment(database)
    )
    assert re.search(r"demo .*-.* 20\d\d-.* 0\b", listed.output)
    ours, theirs = os.openpty()
    process = await asyncio.create_subprocess_exec(
        *command("workspaces", "delete", "demo"),
        env=environment(database) | {"TERM": "dumb"},
        stdin=theirs,
        stdout=subprocess.PIPE,
        stderr=theirs,
    )
    os.close(theirs)
    asked = b""
    while b"continue" not in asked:
        asked += await asyncio.to_thread(os.read, ours, 4096)
    os.write(ours, b"demo\n")
    output, _ = await process.communicate()
    os.close(ours)
    assert process.returncode == 0
    assert output.decode().splitlines()[1] == REMAINS
    assert [row[0] for row in await connection.fetch("SELECT name FROM workspaces")] == ["other"]


@pytest.mark.parametrize(
    "call", [["erase", "--confirm", "demo", "--workspace"], ["workspaces", "list"]]
)
async def test_a_database_that_cannot_be_reached_is_one_line(call: list[str]) -> None:
    """The error names the setting to check."""
    nowhere = environment("postgresql://postgres@127.0.0.1:1/none")
    arguments = [*call, "demo"] if call[0] == "erase" else call
    (done,) = await asyncio.to_thread(partial(forked, "service", [arguments], nowhere))
    assert (done.code, done.output) == (1, "")
    assert re.fullmatch(r"[^\n]*check DATABASE_URL\n", done.errors)
