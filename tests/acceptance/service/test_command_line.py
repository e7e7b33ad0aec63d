"""`python -m service` as a process: its output and its exit codes."""

import asyncio
import os
import re
import socket
import subprocess
import sys
from functools import partial
from pathlib import Path
from urllib.parse import urlsplit
from uuid import uuid4

import asyncpg
import httpx
import pytest

from deploy.local import programs
from service.store.migrations.version import VERSION
from tests.support.parts.shared import execute
from tests.support.programs.command import forked

SECRET = "s3cret-password"
COMMANDS = [["serve"], ["migrate"], ["keys", "list"]]
OURS = re.compile("LINKS_|DATABASE_URL")


def environment(**variables: str) -> dict[str, str]:
    """Return this process' environment with these settings of the program and no others."""
    kept = {name: value for name, value in os.environ.items() if not OURS.match(name)}
    return kept | variables


def run(database: str, *arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
    """Run the program to its end."""
    return subprocess.run(
        [sys.executable, "-m", "service", *arguments],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
        env=environment(DATABASE_URL=database, **variables),
    )


def run_into_full_device(database: str, *arguments: str) -> subprocess.CompletedProcess[bytes]:
    """Run the program to its end; each write to its standard output fails."""
    with Path("/dev/full").open("w") as full:
        return subprocess.run(
            [sys.executable, "-m", "service", *arguments],
            stdout=full,
            stderr=subprocess.PIPE,
            check=False,
            timeout=60,
            env=environment(DATABASE_URL=database),
        )


def create(database: str, *options: str) -> str:
    """Create a key and return it."""
    done = run(database, "keys", "create", "--workspace", "acme", *options)
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout.strip()


async def test_a_key_is_shown_once_and_listed_never(database: str) -> None:
    """`create` prints only the key; `list` shows its id, scopes and limit, not the key."""
    done = run(database, "keys", "create", "--workspace", "acme", "--scope", "read:documents",
               "--rate-limit", "5/minute", "--expires-at", "2020-01-01")  # fmt: skip
    assert (done.returncode, done.stderr) == (0, "")
    assert re.fullmatch(r"wbk_[A-Za-z0-9]{52}\n", done.stdout)
    listed = run(database, "keys", "list", "--workspace", "acme")
    assert listed.returncode == 0
    assert done.stdout.strip().removeprefix("wbk_") not in listed.stdout
    for shown in ("acme", "read:documents", "5/minute", "2020-01-01"):
        assert shown in listed.stdout
    assert "write:documents" not in listed.stdout
    assert "acme" not in run(database, "keys", "list", "--workspace", "other").stdout


async def test_no_value_in_the_list_is_cut_off(database: str) -> None:
    """Long names and names that look like markup are shown whole in a pipe."""
    workspace = f"[acme] {'x' * 120}"
    assert run(database, "keys", "create", "--workspace", workspace).returncode == 0
    listed = run(database, "keys", "list", COLUMNS="80").stdout
    assert workspace in listed
    assert re.search(r"key_[A-Za-z0-9]{12}\b", listed)


def test_a_name_that_the_locale_cannot_show_is_escaped(database: str) -> None:
    """If standard output is not Unicode, the list is complete, without a traceback."""
    ascii_only = {"PYTHONIOENCODING": "ascii", "PYTHONUTF8": "0", "LC_ALL": "C"}
    assert run(database, "keys", "create", "--workspace", "gr\u00f6\u00dfe").returncode == 0
    listed = run(database, "keys", "list", **ascii_only)
    assert (listed.returncode, listed.stderr) == (0, "")
    assert r"gr\xf6\xdfe" in listed.stdout


def test_a_terminal_shows_the_whole_id(database: str) -> None:
    """On a terminal of 80 columns other values are folded, and the id is in one line."""
    name = "=" * 100
    assert run(database, "keys", "create", "--workspace", name).returncode == 0
    ours, theirs = os.openpty()
    command = [sys.executable, "-m", "service", "keys", "list"]
    env = environment(DATABASE_URL=database, COLUMNS="80", TERM="dumb")
    subprocess.run(command, stdout=theirs, check=True, timeout=60, env=env)
    os.close(theirs)
    shown = b"".join(iter(partial(_read, ours), b"")).decode()
    os.close(ours)
    assert re.search(r"key_[A-Za-z0-9]{12}\b", shown)
    assert shown.count("=") == len(name)
    assert "…" not in shown


def _read(terminal: int) -> bytes:
    try:
        return os.read(terminal, 65536)
    except OSError:  # the program that wrote to it has ended
        return b""


async def test_the_next_key_has_the_scopes_of_the_old_one(database: str) -> None:
    """`rotate` prints only the new key, and the old one gets an end date; an earlier one stays."""
    create(database, "--scope", "read:documents", "--rate-limit", "5/minute")
    (old,) = re.findall(r"key_\w{12}", run(database, "keys", "list").stdout)
    done = run(database, "keys", "rotate", old, "--old-expires-at", "2090-01-02")
    assert (done.returncode, done.stderr) == (0, f"{old} expires at 2090-01-02T00:00:00+00:00\n")
    assert re.fullmatch(r"wbk_[A-Za-z0-9]{52}\n", done.stdout)
    rows = [line for line in run(database, "keys", "list").stdout.splitlines() if "key_" in line]
    assert len(rows) == 2
    assert all("acme" in row and "read:documents" in row and "5/minute" in row for row in rows)
    assert all("write:documents" not in row for row in rows)
    assert [old in row for row in rows] == ["2090-01-02" in row for row in rows]
    later = run(database, "keys", "rotate", old, "--old-expires-at", "2091-01-01")
    assert "2090-01-02" in later.stderr


async def test_the_list_shows_the_last_use_to_the_hour(database: str) -> None:
    """A key has the hour of its recorded use; without a record it is unknown."""
    create(database)
    assert "unknown" in run(database, "keys", "list").stdout
    connection = await asyncpg.connect(database)
    await connection.execute(
        "INSERT INTO api_key_uses SELECT id, '2026-01-02T03:00:00Z' FROM api_keys"
    )
    await connection.close()
    assert "2026-01-02T03+00:00" in run(database, "keys", "list").stdout


async def test_a_key_that_could_not_be_printed_leaves_the_old_one(database: str) -> None:
    """If standard output is full, `rotate` revokes the new key and gives the old one no end date."""
    create(database)
    (old,) = re.findall(r"key_\w{12}", run(database, "keys", "list").stdout)
    done = run_into_full_device(database, "keys", "rotate", old)
    assert (done.returncode, b"so it is revoked" in done.stderr) == (1, True)
    connection = await asyncpg.connect(database)
    rows = await connection.fetch("SELECT id, expires_at, revoked_at IS NULL FROM api_keys")
    await connection.close()
    assert {(row[0] == old, row[1], row[2]) for row in rows} == {
        (True, None, True),
        (False, None, False),
    }


async def test_a_revoked_key_has_no_next_one(database: str) -> None:
    """`rotate` exits with 1 for a revoked key and for an unknown one, and makes no key."""
    create(database)
    (old,) = re.findall(r"key_\w{12}", run(database, "keys", "list").stdout)
    assert run(database, "keys", "revoke", old).returncode == 0
    for key_id in (old, "key_none"):
        done = run(database, "keys", "rotate", key_id)
        assert (done.returncode, done.stdout) == (1, "")
        assert f"there is no key {key_id} that is not revoked" in done.stderr
    assert run(database, "keys", "list").stdout.count("key_") == 1


async def test_a_key_works_until_it_is_revoked(database: str, tmp_path: Path) -> None:
    """The service accepts a printed key, and refuses revoked and expired ones."""
    good, revoked = create(database), create(database)
    expired = create(database, "--expires-at", "2020-01-01T00:00:00Z")
    listed = run(database, "keys", "list").stdout
    key_ids = re.findall(r"key_[A-Za-z0-9]{12}", listed)
    assert len(key_ids) == 3
    done = run(database, "keys", "revoke", key_ids[1])
    assert (done.returncode, done.stdout) == (0, f"{key_ids[1]} is revoked\n")
    again = run(database, "keys", "revoke", key_ids[1])
    assert again.returncode == 0
    assert re.fullmatch(rf"{key_ids[1]} is revoked since 20[^ ]+\n", again.stdout)
    with programs.service(database, tmp_path) as service:
        async with httpx.AsyncClient(base_url=service.url) as client:
            url = "/v1/documents/none/links"
            keys = (good, revoked, expired)
            answers = [await client.get(url, headers={"X-API-KEY": key}) for key in keys]
    assert [answer.status_code for answer in answers] == [404, 401, 401]


ERRORS: dict[tuple[str, ...], tuple[int, str]] = {
    ("keys", "revoke", "key_none"): (1, "there is no key key_none"),
    ("keys", "create"): (2, "--workspace"),
    ("keys", "create", "--workspace", ""): (2, "1 to 128 characters"),
    ("keys", "create", "--workspace", "a", "--scope", "all"): (2, "unknown scope all"),
    ("keys", "create", "--workspace", "a", "--rate-limit", "x"): (2, "1000/minute"),
    ("keys", "create", "--workspace", "a", "--rate-limit", "0/minute"): (2, "1000/minute"),
    ("keys", "create", "--workspace", "a", "--rate-limit", "1/second;9/hour"): (2, "1000/minute"),
    ("keys", "create", "--workspace", "a", "--expires-at", "soon"): (2, "2030-01-31"),
    ("keys", "drop"): (2, "drop"),
    ("start",): (2, "start"),
    ("migrate", "--now"): (2, "--now"),
}


def test_errors_are_clear(database: str) -> None:
    """A failed command exits with 1, a wrong one with 2, each with a text on standard error only."""
    all_done = forked("service", list(ERRORS), environment(DATABASE_URL=database))
    for (call, (code, words)), done in zip(ERRORS.items(), all_done, strict=True):
        assert (done.code, done.output) == (code, ""), call
        assert words in done.errors
        assert "Traceback" not in done.errors


KEYS = (
    ("keys", "list"),
    ("keys", "create", "--workspace", "acme"),
    ("keys", "revoke", "key_none"),
    ("keys", "rotate", "key_none"),
)
ERASING = (
    ("erase", "--workspace", "acme"),
    ("workspaces", "list"),
)


@pytest.mark.parametrize("arguments", [*KEYS, *ERASING])
def test_a_database_that_was_not_migrated_is_one_line(
    empty_database: str, arguments: tuple[str, ...]
) -> None:
    """The error names the command that migrates."""
    done = run(empty_database, *arguments)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == (
        "the database has no schema of this program: run `python -m service migrate`; if that was "
        "done, correct the search_path of the role or the database\n"
    )


@pytest.mark.parametrize("arguments", [("migrate",), *KEYS])
async def test_a_newer_schema_is_one_line(database: str, arguments: tuple[str, ...]) -> None:
    """The error says that the program is older than the schema."""
    await execute(database, "INSERT INTO schema_version (version, migration) VALUES (999, 1000)")
    done = run(database, *arguments)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == (
        "the database has schema 1000, on which programs for schema 999 or later can run, and this "
        f"one is for {VERSION}: update the program\n"
    )


async def test_a_read_only_database_is_one_line(database: str, empty_database: str) -> None:
    """Commands that only read succeed; others exit with 1 and say why."""
    for each in (database, empty_database):
        name = each.rpartition("/")[2]
        await execute(each, f"ALTER DATABASE {name} SET default_transaction_read_only = on")
    done = [
        run(empty_database, "migrate"),
        run(database, "keys", "create", "--workspace", "acme"),
        run(database, "keys", "revoke", "key_none"),
    ]
    assert [(each.returncode, each.stdout, len(each.stderr.splitlines())) for each in done] == [
        (1, "", 1)
    ] * 3
    assert all("read-only" in each.stderr for each in done)
    assert run(database, "keys", "list").returncode == 0
    assert run(database, "migrate").stdout == "schema is up to date\n"


def test_a_key_that_could_not_be_printed_is_revoked(database: str) -> None:
    """If the key cannot be printed, because the disk is full, the command exits with 1 and revokes it."""
    with Path("/dev/full").open("wb") as full:
        done = subprocess.run(
            [sys.executable, "-m", "service", "keys", "create", "--workspace", "acme"],
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
            check=False,
            env=environment(DATABASE_URL=database),
        )
    assert done.returncode == 1
    assert done.stderr == (
        "the key could not be written, so it is revoked: No space left on device\n"
    )
    (line,) = (each for each in run(database, "keys", "list").stdout.splitlines() if "key_" in each)
    assert len(re.findall(r"20\d\d-\d\d-\d\dT", line)) == 2  # created, revoked


def test_an_unknown_workspace_is_an_error(database: str) -> None:
    """`list` of a misspelt workspace fails, because an empty list would be misleading."""
    done = run(database, "keys", "list", "--workspace", "acne")
    assert (done.returncode, "there is no workspace acne" in done.stderr) == (0, True)


def test_every_command_has_help() -> None:
    """--help exits with 0, without a database."""
    commands = [[], ["serve"], ["migrate"], ["keys"], *KEYS]
    calls = [[*command[:2], "--help"] for command in commands]
    for call, done in zip(calls, forked("service", calls, environment()), strict=True):
        assert (done.code, done.errors) == (0, ""), call
        assert "Usage" in done.output


def test_wrong_settings_are_named() -> None:
    """An unknown LINKS_ variable is an error that names the nearest setting, before anything is done."""
    env = environment(DATABASE_URL="postgresql://127.0.0.1:1/none", LINKS_PROT="80")
    for done in forked("service", COMMANDS, env):
        assert (done.code, done.output) == (2, "")
        assert done.errors == "LINKS_PROT: unknown variable; did you mean LINKS_PORT?\n"


@pytest.mark.parametrize(
    ("url", "code"),
    [
        (f"postgresql://u:{SECRET}@127.0.0.1:1/none", 1),
        (f"mysql://u:{SECRET}@127.0.0.1/none", 2),
        (f"postgresql://u:{SECRET}@[/none", 2),
    ],
)
def test_database_that_cannot_be_reached_is_one_line(url: str, code: int) -> None:
    """An unreachable database exits with 1, a wrong URL with 2, in one line without the password."""
    done = run(url, "migrate")
    assert (done.returncode, done.stdout) == (code, "")
    assert len(done.stderr.splitlines()) == 1
    assert SECRET not in done.stderr


@pytest.mark.parametrize(
    "url",
    [
        f"postgresql://u:{SECRET}/x@127.0.0.1:1/none",
        f"postgresql://u:{SECRET}@127.0.0.1:1/none?sslmode={SECRET}",
        f"postgresql://u:{SECRET}@127.0.0.1:1/none?{SECRET}",
        f"postgresql:///none?host=127.0.0.1&port={SECRET}",
    ],
)
def test_a_url_that_cannot_be_read_is_one_line(url: str) -> None:
    """A URL that cannot be parsed exits with 2: the line has the variable and the remedy, not the value."""
    for done in forked("service", COMMANDS, environment(DATABASE_URL=url)):
        assert (done.code, done.output) == (2, "")
        assert len(done.errors.splitlines()) == 1
        assert done.errors.startswith("DATABASE_URL: ")
        assert "percent-encode" in done.errors
        assert SECRET not in done.errors


@pytest.mark.parametrize("arguments", [["migrate"], ["keys", "list"]])
async def test_a_role_without_rights_is_one_line(database: str, arguments: list[str]) -> None:
    """An error of Postgres exits with 1 and its message, without a traceback."""
    role = f"role_{uuid4().hex}"
    url = urlsplit(database)
    as_role = url._replace(netloc=f"{role}:{SECRET}@{url.hostname}:{url.port}").geturl()
    await execute(database, f"CREATE ROLE {role} LOGIN PASSWORD '{SECRET}'")
    try:
        done = run(as_role, *arguments)
    finally:
        await execute(database, f"DROP ROLE {role}")
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith("the database refuses: permission denied for ")
    assert len(done.stderr.splitlines()) == 1


async def test_two_migrations_at_once(empty_database: str) -> None:
    """Of two processes one applies the schema, and the other finds it applied."""
    done = await asyncio.gather(
        *(asyncio.to_thread(run, empty_database, "migrate") for _ in range(2))
    )
    assert [each.returncode for each in done] == [0, 0]
    assert sorted(each.stdout for each in done) == ["schema applied\n", "schema is up to date\n"]


async def test_a_foreign_database_is_refused(empty_database: str) -> None:
    """A database with other tables is not changed; the command exits with 1 and one line."""
    await execute(empty_database, "CREATE TABLE theirs (n int)")
    done = run(empty_database, "migrate")
    assert (done.returncode, done.stdout) == (1, "")
    assert "not empty" in done.stderr
    assert len(done.stderr.splitlines()) == 1


def test_a_port_in_use_is_named(database: str) -> None:
    """`serve` on a port in use exits with 1 and names it, without a traceback."""
    with socket.create_server(("127.0.0.1", 0)) as somebody:
        port = str(somebody.getsockname()[1])
        done = run(database, "serve", LINKS_PORT=port)
    assert done.returncode == 1
    assert port in done.stderr
    assert "Traceback" not in done.stderr
