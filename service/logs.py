"""Log lines on standard error: JSON, or readable text on a terminal."""

import logging
import sys
from datetime import UTC, datetime
from types import TracebackType
from typing import Any, Final

import asyncpg
import msgspec

from service.core.errors import Unavailable
from service.standard_error import LineHandler, hold_standard_streams

_STANDARD: Final = frozenset(vars(logging.makeLogRecord({}))) | {
    "message",
    "asctime",
    "color_message",
}


STANDARD_ERROR: Final = 2


def json_lines() -> logging.Handler:
    """Return what writes JSON lines to standard error."""
    handler = LineHandler(STANDARD_ERROR, _dropped_lines)
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
    hold_standard_streams()
    handler = json_lines()
    if sys.stderr is not None and sys.stderr.isatty():  # None: it was closed, as by `2>&-`
        handler.setFormatter(TextFormatter())
    logging.basicConfig(level=level.upper(), handlers=[handler], force=True)
    logging.getLogger("asyncio").setLevel(logging.WARNING)
