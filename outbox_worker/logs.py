"""Log lines: a constant event name and fields, as JSON; as text on a terminal."""

import asyncio
import json
import logging
import sys
import time
from typing import Any, Final

from outbox_worker.standard_error import LineHandler, hold_standard_streams

ROOT: Final = "outbox_worker"
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


def retrieve(future: asyncio.Future[Any]) -> None:
    """Retrieve an error that nobody may wait for any more: otherwise asyncio logs it."""
    if not future.cancelled():
        future.exception()


def json_lines() -> logging.Handler:
    """Return what writes JSON lines to standard error."""
    handler = LineHandler(STANDARD_ERROR, _dropped_lines)
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
    hold_standard_streams()
    handler = json_lines()
    if sys.stderr is not None and sys.stderr.isatty():  # None: it was closed, as by `2>&-`
        handler.setFormatter(_Text())
    logging.basicConfig(level=logging.WARNING, handlers=[handler], force=True)
    logging.getLogger(ROOT).setLevel(logging.INFO)
    logging.getLogger("aiokafka").setLevel(logging.CRITICAL + 1)


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
