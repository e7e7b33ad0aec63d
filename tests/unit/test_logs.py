"""Log lines: the same form in both programs, without rows, and without waiting for a reader."""

import asyncio
import gc
import json
import logging
import os
import re
import sys
from collections.abc import Iterator
from types import ModuleType
from typing import Any, NamedTuple

import asyncpg
import pytest
from structlog.contextvars import bound_contextvars

from outbox_worker import logs as worker_logs
from service import logs as service_logs

PIPE_BYTES = 1 << 16
LONG = "x" * 50_000
ROW = "Key (display_name)=(a secret) already exists."


class Pipe(NamedTuple):
    """A pipe in place of standard error, and its reading end."""

    reader: int
    writer: int

    def read(self) -> list[str]:
        """Return the lines in the pipe."""
        return os.read(self.reader, 2 * PIPE_BYTES).decode().splitlines()

    def line(self) -> dict[str, Any]:
        """Return the fields of the only line in the pipe."""
        (line,) = self.read()
        fields: dict[str, Any] = json.loads(line)
        return fields


@pytest.fixture
def pipe() -> Iterator[Pipe]:
    """Yield a pipe."""
    pipe = Pipe(*os.pipe())
    yield pipe
    for end in pipe:
        os.close(end)


@pytest.fixture(params=[service_logs, worker_logs], ids=["service", "outbox_worker"])
def logs(
    request: pytest.FixtureRequest, pipe: Pipe, monkeypatch: pytest.MonkeyPatch
) -> Iterator[ModuleType]:
    """Yield a program's logging, set up on the pipe."""
    root = logging.getLogger()
    before = root.handlers[:], root.level
    program: ModuleType = request.param
    monkeypatch.setattr(program, "STANDARD_ERROR", pipe.writer)
    program.set_up("info", quiet="error")
    yield program
    root.handlers[:], root.level = before


@pytest.fixture
def refused() -> asyncpg.PostgresError:
    """Return an error as Postgres raises it for a row, with the row in its DETAIL."""
    error = asyncpg.UniqueViolationError("duplicate key value")
    error.detail = ROW
    return error


def test_a_line_has_the_same_form_in_both_programs(logs: ModuleType, pipe: Pipe) -> None:
    """Time in UTC, level, event and logger come first, then the fields, and nothing else."""
    logs.get_logger("a.part").warning("thing.happened", events=2, what="caf\u00e9 \ud800")
    line = pipe.line()
    assert list(line) == ["time", "level", "event", "logger", "events", "what"]
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", line.pop("time"))
    assert list(line.values()) == ["warning", "thing.happened", "a.part", 2, "caf\u00e9 \ud800"]


@pytest.mark.usefixtures("logs")
def test_lines_of_libraries_have_that_form(pipe: Pipe) -> None:
    """A library's message is the event, and its `extra` the fields, without uvicorn's coloured message."""
    extra = {"port": 80, "color_message": "x"}
    logging.getLogger("uvicorn.error").info("Started %s", "it", extra=extra)
    line = pipe.line()
    del line["time"]
    assert line == {"level": "info", "event": "Started it", "logger": "uvicorn.error", "port": 80}


def test_levels_hold_for_packages(logs: ModuleType, pipe: Pipe) -> None:
    """A package may have its own level; lines below it are not written."""
    logs.get_logger("quiet.part").warning("not.written")
    logs.get_logger("other.part").debug("not.written")
    logs.get_logger("quiet.part").error("written")
    assert pipe.line()["event"] == "written"


def test_what_is_bound_is_on_each_line(logs: ModuleType, pipe: Pipe) -> None:
    """A request's id is bound once, and is on each line until the end of the request."""
    log = logs.get_logger("a.part")
    with bound_contextvars(request_id="req_1"):
        log.info("during")
    log.info("after")
    during, after = map(json.loads, pipe.read())
    assert (during["request_id"], "request_id" in after) == ("req_1", False)


def test_an_exception_is_a_field(logs: ModuleType, pipe: Pipe) -> None:
    """The field has the traceback of the given error, or of the one being handled."""
    log = logs.get_logger("a.part")
    with pytest.raises(ValueError, match="a defect") as raised:
        int("a defect")
    log.error("failed", exc_info=raised.value)
    logging.getLogger("library").error("failed", exc_info=raised.value)
    try:
        int("a defect")
    except ValueError:
        log.exception("failed")
    for line in map(json.loads, pipe.read()):
        assert line["exception"].startswith("Traceback (most recent call last):\n")
        assert line["exception"].endswith("base 10: 'a defect'")


def test_rows_that_postgres_quotes_are_left_out(
    logs: ModuleType, pipe: Pipe, refused: asyncpg.PostgresError
) -> None:
    """DETAIL is in no traceback, not even in that of a cause, and in no reason."""
    assert ROW in str(refused)
    assert logs.reason(refused) == "UniqueViolationError: duplicate key value"
    outer = RuntimeError("the write failed")
    outer.__cause__ = refused
    logs.get_logger("a.part").error("failed", exc_info=outer)
    exception = pipe.line()["exception"]
    assert "duplicate key value" in exception
    assert "secret" not in exception


@pytest.mark.parametrize(
    ("error", "told"),
    [
        (TimeoutError(), "TimeoutError: there was no answer in time"),
        (TimeoutError("no place"), "TimeoutError: no place"),
        (asyncio.CancelledError(), "CancelledError: it was cancelled"),
        (
            ConnectionResetError(),
            "ConnectionResetError: the connection was closed by the other side",
        ),
        (ConnectionRefusedError(), "ConnectionRefusedError: the connection was refused"),
        (LookupError(), "LookupError"),
        (LookupError("\nno such key\nin it"), "LookupError: no such key"),
    ],
)
def test_an_error_without_a_text_is_told_in_words(
    logs: ModuleType, error: BaseException, told: str
) -> None:
    """A line about an error says what happened, also if Python raised the error without a text."""
    assert logs.reason(error) == told
    assert logs.first_line(error) == told.rpartition(": ")[2]
    outer = LookupError("")
    outer.__cause__ = error
    assert logs.first_line(outer) == told.rpartition(": ")[2]


@pytest.mark.usefixtures("logs")
def test_errors_that_nobody_awaits_are_logged(pipe: Pipe) -> None:
    """The error of a future that nobody awaited is logged by asyncio, with its traceback."""

    async def forget() -> None:
        asyncio.get_running_loop().create_future().set_exception(ValueError("a defect"))
        gc.collect()

    asyncio.run(forget())
    line = pipe.line()
    assert (line["logger"], line["exception"]) == ("asyncio", "ValueError: a defect")


def test_a_terminal_gets_text(
    logs: ModuleType, refused: asyncpg.PostgresError, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A terminal gets readable lines and tracebacks, without the values of local variables."""
    terminal, end = os.openpty()
    with os.fdopen(end, "w") as stderr:
        monkeypatch.setattr(sys, "stderr", stderr)
        monkeypatch.setattr(logs, "STANDARD_ERROR", end)
        logs.set_up("info")
        logs.get_logger("a.part").error("failed", events=2, exc_info=refused)
        text = re.sub(r"\x1b\[[\d;]*m", "", os.read(terminal, PIPE_BYTES).decode())
    os.close(terminal)
    first, *others = text.splitlines()
    assert re.match(r"\d{4}-.*Z \[error +\] failed +\[a\.part\] events=2", first)
    assert others[-1].endswith("UniqueViolationError: duplicate key value")
    assert "secret" not in text


def test_lines_that_nobody_reads_are_dropped_and_counted(logs: ModuleType, pipe: Pipe) -> None:
    """Without a reader no call blocks, and each line is either written whole or counted as dropped."""
    log = logs.get_logger("a.part")
    for number in range(5_000):
        log.info("line", number=number)
    first = [json.loads(line) for line in pipe.read()]
    log.info("after")
    told, after = (json.loads(line) for line in pipe.read())
    assert [line["number"] for line in first] == list(range(len(first)))
    assert (told["event"], told["level"]) == ("log.lines_dropped", "warning")
    assert len(first) + told["lines"] == 5_000
    assert after["event"] == "after"


def test_a_line_that_is_cut_off_ends_before_the_next(logs: ModuleType, pipe: Pipe) -> None:
    """A traceback that fits only in part counts as dropped, and the next line begins on a new one."""
    log = logs.get_logger("a.part")
    for _ in range(2):
        log.info(LONG)
    whole, cut = pipe.read()
    assert json.loads(whole)["event"] == LONG
    log.info("after")
    lines = pipe.read()
    assert (lines[0], cut.endswith("x")) == ("", True)
    told, after = (json.loads(line) for line in lines[1:])
    assert (told["lines"], after["event"]) == (1, "after")


def test_a_reader_that_has_gone_is_no_error(
    logs: ModuleType, pipe: Pipe, capfd: pytest.CaptureFixture[str]
) -> None:
    """After the reader has closed the pipe nothing is raised or written elsewhere."""
    null = os.open(os.devnull, os.O_RDONLY)
    os.dup2(null, pipe.reader)
    os.close(null)
    logs.get_logger("a.part").info("to nobody")
    assert capfd.readouterr() == ("", "")


def test_a_line_is_there_when_the_call_returns(logs: ModuleType, pipe: Pipe) -> None:
    """A line is written before the call returns."""
    logs.get_logger("a.part").info("first")
    assert pipe.line()["event"] == "first"
