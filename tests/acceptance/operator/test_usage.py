"""Wrong command lines of both programs: one clear line, the right exit code, no traceback."""

import asyncio
import json
import os
import signal
import socket
import subprocess
import sys

import pytest

from tests.support.programs.command import Done, forked

NOWHERE = {
    "DATABASE_URL": "postgresql://nobody@127.0.0.1:1/none",
    "KAFKA_BOOTSTRAP_SERVERS": "127.0.0.1:1",
    "OUTBOX_HTTP_PORT": "0",
}
DAY = ("--from", "2020-01-01", "--to", "2020-01-02")
REPLAY = ("replay", *DAY)
NOT_UNICODE = os.fsdecode(b"\xff")

WORKER: dict[tuple[str, ...], str] = {
    ("relay",): "No such command 'relay'",
    ("run", "now"): "unexpected extra argument",
    ("run", "--accept-topic=yes"): "--accept-topic",
    ("status", "--jsn"): "--json",
    ("verify", "--all=1"): "--all",
    ("doctor", "--fix"): "--fix",
    ("rebase", "--force"): "--force",
    ("replay",): "--from",
    ("replay", "--from", "2020-01-01"): "--to",
    ("replay", "--from", "", "--to", "2020-01-02"): "is not a time in ISO 8601",
    ("replay", "--from", "yesterday", "--to", "2020-01-02"): "yesterday is not a time in ISO 8601",
    ("replay", "--from", NOT_UNICODE, "--to", "2020-01-02"): r"\udcff is not a time",
    ("replay", "--from", "2020-01-01\n", "--to", "2020-01-02"): r"2020-01-01\n is not a time",
    ("replay", "--from", "2020-13-01", "--to", "2020-01-02"): "is not a time",
    ("replay", "--from", "9" * 5000, "--to", "2020-01-02"): "is not a time",
    ("replay", "--from", "0001-01-01T00:00+12:00", "--to", "2020-01-02"): "is not a time",
    ("replay", "--from", "2020-01-01", "--to", "9999-12-31T23:59-12:00"): "is not a time",
    ("replay", "--from", "2020-01-02", "--to", "2020-01-01"): "is not before --to",
    ("replay", "--from", "2020-01-01", "--to", "2020-01-01"): "is not before --to",
    ("replay", "--from", "2020-01-01T01:00Z", "--to", "2020-01-01T02:00+01:00"): "is not before",
    ("replay", "--from", "2990-01-01", "--to", "2991-01-01"): "is in the future",
    (*REPLAY, "--document", ""): "is no document's id",
    (*REPLAY, "--document", "doc/1"): "is no document's id",
    (*REPLAY, "--document", "d" * 129): "is no document's id",
    (*REPLAY, "--document", NOT_UNICODE): "is no document's id",
    (*REPLAY, "--topic", ""): "is not a topic name",
    (*REPLAY, "--topic", ".."): "is not a topic name",
    (*REPLAY, "--topic", "a b"): "is not a topic name",
    (*REPLAY, "--topic", "t" * 250): "is not a topic name",
    (*REPLAY, "--topic", "thème"): "is not a topic name",
    (*REPLAY, "--topic", "__consumer_offsets"): "is a topic of Kafka itself",
    (*REPLAY, "--topic", "document-links.progress.0123456789abcdef"): "progress topic",
    (*REPLAY, "--topic", "other.progress.0123456789abcdef", "--yes"): "progress topic",
    (*REPLAY, "--topic", "document-links.snapshot"): "is for snapshots",
    ("snapshot", "--topic", "document-links.progress.0123456789abcdef"): "progress topic",
    ("snapshot", "--topic", "__transaction_state", "--yes"): "is a topic of Kafka itself",
    ("snapshot", "--topic", "document-links.replay"): "is for replays",
    ("snapshot", "--topic", ""): "is not a topic name",
}

SERVICE: dict[tuple[str, ...], str] = {
    ("start",): "No such command 'start'",
    ("serve", "--port", "80"): "--port",
    ("migrate", "--now"): "--now",
    ("keys", "drop"): "No such command 'drop'",
    ("keys", "revoke"): "Missing argument",
    ("keys", "revoke", ""): "is no key's id",
    ("keys", "revoke", "wbk_" + "s3cret" * 8): "is a key, not its id",
    ("keys", "revoke", "a", "b"): "unexpected extra argument",
    ("keys", "list", "--workspace", ""): "1 to 128 characters",
    ("keys", "create"): "--workspace",
    ("keys", "create", "--workspace", ""): "1 to 128 characters",
    ("keys", "create", "--workspace", "w" * 129): "1 to 128 characters",
    ("keys", "create", "--workspace", "a\nb"): "1 to 128 characters",
    ("keys", "create", "--workspace", NOT_UNICODE): "1 to 128 characters",
    ("keys", "create", "--workspace", "a", "--scope", ""): "unknown scope ''",
    ("keys", "create", "--workspace", "a", "--scope", "all"): "unknown scope",
    ("keys", "create", "--workspace", "a", "--rate-limit", ""): "a rate limit is",
    ("keys", "create", "--workspace", "a", "--rate-limit", "-1/minute"): "a rate limit is",
    ("keys", "create", "--workspace", "a", "--rate-limit", "9" * 30 + "/day"): "a rate limit is",
    ("keys", "create", "--workspace", "a", "--rate-limit", "9" * 9999 + "/day"): "a rate limit is",
    ("keys", "create", "--workspace", "a", "--expires-at", ""): "2030-01-31",
    ("keys", "create", "--workspace", "a", "--expires-at", "soon"): "2030-01-31",
    ("keys", "create", "--workspace", "a", "--expires-at", "9999-12-31T23:59-12:00"): "2030-01-31",
    ("keys", "create", "--workspace", "a", "--expires-at", NOT_UNICODE): "2030-01-31",
}


async def run(
    module: str, *arguments: str, output: int = subprocess.PIPE, **variables: str
) -> Done:
    """Run a program to its end, with a database and a Kafka that do not exist."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", module, *arguments,
        env={**os.environ, **NOWHERE, **variables},
        stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.PIPE,
    )  # fmt: skip
    async with asyncio.timeout(60):
        printed, errors = await process.communicate()
    assert process.returncode is not None
    return Done(process.returncode, (printed or b"").decode(), errors.decode())


@pytest.mark.parametrize(("module", "calls"), [("outbox_worker", WORKER), ("service", SERVICE)])
def test_wrong_arguments_are_one_line_and_exit_2(
    module: str, calls: dict[tuple[str, ...], str]
) -> None:
    """A wrong option or value ends the program with 2 before it prints or connects."""
    for (call, words), done in zip(
        calls.items(), forked(module, list(calls), {**os.environ, **NOWHERE}), strict=True
    ):
        shown = (call, done)
        assert (done.code, done.output) == (2, ""), shown
        assert len(done.errors.splitlines()) == 1, shown
        assert words in done.errors, shown
        assert "s3cret" not in done.errors
        assert done.errors.isprintable() or done.errors[:-1].isprintable(), shown


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        ((*REPLAY, "--json", "--topic", "__x"), 2),
        ((*REPLAY, "--json", "--tpic", "x"), 2),
        (("replay", "--json", "--from", NOT_UNICODE, "--to", "2020-01-01"), 2),
        ((*REPLAY, "--json"), 1),
        (("snapshot", "--json", "--yes"), 1),
        (("verify", "--json"), 1),
        (("rebase", "--json", "--yes"), 1),
    ],
)
async def test_json_is_json_after_an_error_too(arguments: tuple[str, ...], code: int) -> None:
    """After an error, standard output has one JSON object with the line of standard error."""
    done = await run("outbox_worker", *arguments)
    assert done.code == code
    assert f"outbox_worker: {json.loads(done.output)['error']}\n" == done.errors


@pytest.mark.parametrize(
    ("module", "arguments", "line"),
    [
        ("outbox_worker", ("status",), "outbox_worker: interrupted\n"),
        ("service", ("keys", "list"), "interrupted\n"),
        ("service", ("migrate",), "interrupted\n"),
    ],
)
async def test_an_interruption_is_one_line(
    module: str, arguments: tuple[str, ...], line: str
) -> None:
    """Ctrl-C while the database does not answer ends a command with 1 and one line."""
    with socket.create_server(("127.0.0.1", 0)) as silent:
        silent.settimeout(0)
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", module, *arguments,
            env={**os.environ, **NOWHERE, "DATABASE_URL": url_of(silent)},
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        )  # fmt: skip
        async with asyncio.timeout(60):
            connection, _ = await asyncio.get_running_loop().sock_accept(silent)
            process.send_signal(signal.SIGINT)
            printed, errors = await process.communicate()
            connection.close()
    assert (process.returncode, printed, errors.decode()) == (1, b"", line)


def url_of(listener: socket.socket) -> str:
    """Return the URL of a database behind a socket that accepts connections."""
    return f"postgresql://nobody@127.0.0.1:{listener.getsockname()[1]}/none"


@pytest.mark.parametrize("module", ["outbox_worker", "service"])
async def test_a_closed_pipe_is_no_error(module: str) -> None:
    """After `… --help | head -1` there is no traceback, and nothing on standard error."""
    reader, writer = os.pipe()
    os.close(reader)
    try:
        done = await run(module, "--help", output=writer)
    finally:
        os.close(writer)
    assert (done.code, done.errors) == (1, "")


@pytest.mark.parametrize(
    ("module", "arguments"),
    [
        ("outbox_worker", ("doctor",)),
        ("outbox_worker", ("status", "--json")),
        ("outbox_worker", (*REPLAY, "--json")),
        ("service", ("--help",)),
    ],
)
async def test_a_full_disk_is_reported(module: str, arguments: tuple[str, ...]) -> None:
    """Output that cannot be written is reported with one more line."""
    full = os.open("/dev/full", os.O_WRONLY)
    try:
        done = await run(module, *arguments, output=full)
    finally:
        os.close(full)
    assert done.code == 1
    assert done.errors.splitlines()[-1].endswith(
        "the output cannot be written: No space left on device"
    )
    assert "Traceback" not in done.errors
