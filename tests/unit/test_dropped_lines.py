"""Log lines that nobody reads: the program goes on, and the log says afterwards how many are missing."""

import json
import logging
import os
from collections.abc import Iterator
from typing import NamedTuple

import pytest

from outbox_worker import logs as worker_logs
from service import logs as service_logs

PIPE_BYTES = 1 << 16
LONG = "x" * 50_000
PROGRAMS = {"service": service_logs, "outbox_worker": worker_logs}


class Pipe(NamedTuple):
    """Standard error's place, and the end at which it is read."""

    reader: int
    writer: int

    def read(self) -> list[str]:
        """Return the lines that wait to be read."""
        return os.read(self.reader, 2 * PIPE_BYTES).decode().splitlines()


@pytest.fixture
def pipe() -> Iterator[Pipe]:
    """Yield a pipe."""
    pipe = Pipe(*os.pipe())
    yield pipe
    for end in pipe:
        os.close(end)


@pytest.fixture(params=PROGRAMS)
def handler(
    request: pytest.FixtureRequest, pipe: Pipe, monkeypatch: pytest.MonkeyPatch
) -> logging.Handler:
    """Return the handler that a program logs with, on the pipe."""
    logs = PROGRAMS[request.param]
    monkeypatch.setattr(logs, "STANDARD_ERROR", pipe.writer)
    handler: logging.Handler = logs.json_lines()
    return handler


def say(handler: logging.Handler, text: str) -> None:
    """Log a line."""
    handler.handle(logging.makeLogRecord({"msg": text, "levelname": "INFO"}))


def test_lines_that_nobody_reads_are_dropped_and_counted(
    handler: logging.Handler, pipe: Pipe
) -> None:
    """Thousands of them hold nothing up; every line is either there, whole, or counted."""
    for number in range(5_000):
        say(handler, f"line {number}")
    first = [json.loads(line) for line in pipe.read()]
    say(handler, "after")
    told, after = (json.loads(line) for line in pipe.read())
    assert [line["event"] for line in first] == [f"line {n}" for n in range(len(first))]
    assert (told["event"], told["level"]) == ("log.lines_dropped", "warning")
    assert len(first) + told["lines"] == 5_000
    assert after["event"] == "after"


def test_a_line_that_is_cut_off_ends_before_the_next(handler: logging.Handler, pipe: Pipe) -> None:
    """A traceback that fits in part counts as dropped, and the lines after it can be read."""
    for _ in range(2):
        say(handler, LONG)
    whole, cut = pipe.read()
    assert json.loads(whole)["event"] == LONG
    say(handler, "after")
    lines = pipe.read()
    assert (lines[0], cut.endswith("x")) == ("", True)
    told, after = (json.loads(line) for line in lines[1:])
    assert (told["lines"], after["event"]) == (1, "after")


def test_a_reader_that_has_gone_is_no_error(handler: logging.Handler, pipe: Pipe) -> None:
    """Nothing is raised, and nothing is written anywhere else."""
    null = os.open(os.devnull, os.O_RDONLY)
    os.dup2(null, pipe.reader)
    os.close(null)
    say(handler, "to nobody")


def test_a_line_is_there_when_the_call_returns(handler: logging.Handler, pipe: Pipe) -> None:
    """Nothing waits in a buffer for the next line."""
    say(handler, "caf\u00e9")
    (line,) = pipe.read()
    assert json.loads(line)["event"] == "caf\u00e9"
