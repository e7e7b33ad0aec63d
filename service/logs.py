"""Log lines on standard error: JSON, or readable text on a terminal."""

import logging
import os
import select
import sys
from contextlib import suppress
from datetime import UTC, datetime
from types import TracebackType
from typing import Any, Final

import asyncpg
import msgspec

from service.core.errors import Unavailable

_STANDARD: Final = frozenset(vars(logging.makeLogRecord({}))) | {
    "message",
    "asctime",
    "color_message",
}


REST_OF_LINE_MS: Final = 50
"""For the reader to make room for the rest of a line longer than PIPE_BUF, of which a part is written."""
STANDARD_ERROR: Final = 2


class LineHandler(logging.Handler):
    """Writes lines to a file descriptor, and drops a line for which its reader leaves no room.

    A pipe that nobody reads holds 64 KiB. A write to it while it is full would block the event loop
    until the reader goes on. The number of dropped lines is logged as soon as there is room again.
    """

    def __init__(self, descriptor: int) -> None:
        super().__init__()
        self._descriptor = descriptor
        self._room = select.poll()
        self._room.register(descriptor, select.POLLOUT)
        self._dropped = 0
        self._is_cut = False
        """The last line was written in part: a line end has to come before the next one."""

    def emit(self, record: logging.LogRecord) -> None:
        """Write the line, after the number of those that were dropped before it."""
        try:
            if not (self._dropped_are_told() and self._write(self.format(record))):
                self._dropped += 1
        except Exception:  # noqa: BLE001 - as every handler of the standard library does
            self.handleError(record)

    def _dropped_are_told(self) -> bool:
        """Whether no line is missing, or the log says how many are."""
        if self._dropped and self._write(self.format(_dropped_lines(self._dropped))):
            self._dropped = 0
        return not self._dropped

    def _write(self, text: str) -> bool:
        """Whether the whole line was written. A pipe with room takes PIPE_BUF bytes at once."""
        begin = b"\n" if self._is_cut else b""
        line = begin + text.encode(errors="backslashreplace") + b"\n"
        written = 0
        with suppress(OSError):  # the reader has gone, or the disk is full
            while written < len(line) and self._room.poll(REST_OF_LINE_MS if written else 0):
                written += os.write(self._descriptor, line[written : written + select.PIPE_BUF])
        self._is_cut = 0 < written < len(line) or (self._is_cut and not written)
        return written == len(line)


def json_lines() -> logging.Handler:
    """Return what writes JSON lines to standard error."""
    handler = LineHandler(STANDARD_ERROR)
    handler.setFormatter(JsonFormatter())
    return handler


def _dropped_lines(lines: int) -> logging.LogRecord:
    return logging.makeLogRecord(
        {
            "msg": "log.lines_dropped",
            "levelno": logging.WARNING,
            "levelname": "WARNING",
            "lines": lines,
        }
    )


class DiscreetFormatter(logging.Formatter):
    """Leaves out what Postgres quotes of a row that it refused: that is a caller's body."""

    def formatException(  # noqa: N802 - the standard library's name
        self,
        ei: tuple[type[BaseException], BaseException, TracebackType | None]
        | tuple[None, None, None],
    ) -> str:
        """Return the traceback."""
        error = ei[1]
        while error is not None:
            if isinstance(error, asyncpg.PostgresError):
                error.detail = None
            error = error.__cause__ or error.__context__
        return super().formatException(ei)


class JsonFormatter(DiscreetFormatter):
    """One JSON object a line: time, level, event, and the fields given as `extra`."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the line."""
        line: dict[str, Any] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "event": record.getMessage(),
            **fields_of(record),
        }
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        return msgspec.json.encode(line, enc_hook=str).decode()


class TextFormatter(DiscreetFormatter):
    """The same for human eyes."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the line."""
        moment = datetime.fromtimestamp(record.created, UTC).astimezone().strftime("%H:%M:%S")
        fields = " ".join(f"{name}={value}" for name, value in fields_of(record).items())
        line = f"{moment} {record.levelname.lower():7} {record.getMessage()} {fields}".rstrip()
        return f"{line}\n{self.formatException(record.exc_info)}" if record.exc_info else line


def reason(error: BaseException) -> str:
    """Return the kind of an error and what it says; a time-out says nothing by itself."""
    return f"{type(error).__name__}: {error}".removesuffix(": ")


class LastingProblem:
    """Logs a problem when it begins, when it changes, and when it is over; not each retry."""

    def __init__(self, log: logging.Logger, event: str, over: str) -> None:
        """Take the names of the two events."""
        self._log = log
        self._event = event
        self._over = over
        self._kind: str | None = None
        self._count = 0

    def met(self, error: BaseException, **fields: object) -> None:
        """Take note of a failure; one that nobody foresaw is logged with its traceback."""
        cause = error.__cause__ or error
        self._count += 1
        kind, self._kind = self._kind, type(cause).__name__
        level = logging.DEBUG if kind == self._kind else logging.WARNING
        foreseen = isinstance(error, Unavailable)
        self._log.log(
            level if foreseen or level == logging.DEBUG else logging.ERROR,
            self._event,
            extra={**fields, "error": reason(cause)},
            exc_info=None if foreseen else error,
        )

    def over(self) -> None:
        """Take note of a success."""
        if self._kind is not None:
            self._log.warning(self._over, extra={"failures": self._count})
            self._kind, self._count = None, 0


def fields_of(record: logging.LogRecord) -> dict[str, Any]:
    """Return what was given as `extra`."""
    return {name: value for name, value in vars(record).items() if name not in _STANDARD}


def set_up(level: str) -> None:
    """Send every log line of the program to standard error."""
    _hold_standard_streams()
    handler = json_lines()
    if sys.stderr is not None and sys.stderr.isatty():  # None: it was closed, as by `2>&-`
        handler.setFormatter(TextFormatter())
    logging.basicConfig(level=level.upper(), handlers=[handler], force=True)
    logging.getLogger("asyncio").setLevel(logging.WARNING)


def _hold_standard_streams() -> None:
    """Open /dev/null in place of each closed stream: libuv aborts when it closes a socket with its number."""
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:  # the lowest number that is free is the one that open() takes
            os.set_inheritable(os.open(os.devnull, os.O_RDWR), True)  # noqa: FBT003 - its only form
