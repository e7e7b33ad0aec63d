"""Log lines: a constant event name and fields, as JSON; as text on a terminal."""

import json
import logging
import os
import select
import sys
import time
from contextlib import suppress
from typing import Any, Final

ROOT: Final = "outbox_worker"
REST_OF_LINE_MS: Final = 50
"""For the reader to make room for the rest of a line longer than PIPE_BUF, of which a part is written."""
STANDARD_ERROR: Final = 2


class Log:
    """A logger that takes an event name and fields."""

    def __init__(self, name: str) -> None:
        self._logger = logging.getLogger(f"{ROOT}.{name}")

    def info(self, event: str, **fields: object) -> None:
        """Say that something has happened as it should."""
        self._logger.info(event, extra={"fields": fields})

    def warning(self, event: str, **fields: object) -> None:
        """Say that something needs a look."""
        self._logger.warning(event, extra={"fields": fields})

    def error(self, event: str, **fields: object) -> None:
        """Say that something fails."""
        self._logger.error(event, extra={"fields": fields})

    def crash(self, event: str, error: BaseException) -> None:
        """Say that something failed that nobody foresaw, with its traceback."""
        self._logger.error(event, exc_info=error)


class Told:
    """What was found last of each thing: a line for each change, not for each time it is found."""

    def __init__(self) -> None:
        self._found: dict[str, object] = {}

    def anew(self, thing: str, found: object | None) -> bool:
        """Whether there is something to tell, None being nothing, that was not told last."""
        before, self._found[thing] = self._found.get(thing), found
        return found is not None and found != before


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
    handler.setFormatter(_Json())
    return handler


def _dropped_lines(lines: int) -> logging.LogRecord:
    return logging.makeLogRecord(
        {
            "msg": "log.lines_dropped",
            "levelno": logging.WARNING,
            "levelname": "WARNING",
            "fields": {"lines": lines},
        }
    )


def configure() -> None:
    """Write our lines to standard error, and nobody else's.

    aiokafka logs each retry, several times; whatever it reports reaches our own lines.
    """
    _hold_standard_streams()
    handler = json_lines()
    if sys.stderr is not None and sys.stderr.isatty():  # None: it was closed, as by `2>&-`
        handler.setFormatter(_Text())
    logging.basicConfig(level=logging.WARNING, handlers=[handler], force=True)
    logging.getLogger(ROOT).setLevel(logging.INFO)
    logging.getLogger("aiokafka").setLevel(logging.CRITICAL + 1)


def _hold_standard_streams() -> None:
    """Open /dev/null in place of each closed stream: libuv aborts when it closes a socket with its number."""
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:  # the lowest number that is free is the one that open() takes
            os.set_inheritable(os.open(os.devnull, os.O_RDWR), True)  # noqa: FBT003 - its only form


class _Json(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        line: dict[str, Any] = {
            "time": _moment(record),
            "level": record.levelname.lower(),
            "event": record.getMessage(),
            **getattr(record, "fields", {}),
        }
        if record.exc_info:
            line["traceback"] = self.formatException(record.exc_info)
        return json.dumps(line, default=str, ensure_ascii=False)


class _Text(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        fields = " ".join(f"{k}={v}" for k, v in getattr(record, "fields", {}).items())
        line = f"{_moment(record)} {record.levelname:7} {record.getMessage()} {fields}".rstrip()
        return f"{line}\n{self.formatException(record.exc_info)}" if record.exc_info else line


def _moment(record: logging.LogRecord) -> str:
    seconds = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created))
    return f"{seconds}.{int(record.msecs):03d}Z"
