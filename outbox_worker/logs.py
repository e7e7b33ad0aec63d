"""Log lines on standard error: JSON, or text on a terminal. Both programs have the same file.

A call names a constant event and its fields: `log.info("relay.started", source="checkpoint")`. The
line is one JSON object with `time` (UTC), `level`, `event`, `logger` and the fields. `exception` is
the traceback of an error. Lines of libraries have the same form.

Standard error is often a pipe, which holds 64 KiB. A write to a full pipe would block the event loop
until the reader reads. So a line for which there is no room is dropped, and the number of dropped
lines is logged as soon as there is room again.
"""

import asyncio
import logging
import os
import select
import sys
from contextlib import suppress
from datetime import UTC, datetime
from typing import Final, cast

import asyncpg
import structlog
from structlog import dev, processors, stdlib
from structlog.contextvars import merge_contextvars
from structlog.typing import EventDict, Processor

STANDARD_ERROR: Final = 2
WITHOUT_TEXT: Final[dict[type[BaseException], str]] = {
    TimeoutError: "there was no answer in time",
    asyncio.CancelledError: "it was cancelled",
    ConnectionRefusedError: "the connection was refused",
    ConnectionError: "the connection was closed by the other side",
    EOFError: "the connection was closed by the other side",
}
"""What an error of these classes means. Python and libraries raise them without a text."""
REST_OF_LINE_MS: Final = 50
"""The longest wait for the reader to make room for the rest of a line that is written in part."""


def get_logger(name: str) -> stdlib.BoundLogger:
    """Return a logger that takes an event and fields, and hands them to the standard library's."""
    steps = [stdlib.filter_by_level, merge_contextvars, stdlib.render_to_log_kwargs]
    logger = structlog.wrap_logger(logging.getLogger(name), steps, stdlib.BoundLogger)
    return cast("stdlib.BoundLogger", logger.bind())


def set_up(level: str, **levels: str) -> None:
    """Write the log lines of this process to standard error.

    `level` is the lowest level that is written, `levels` the lowest ones of single packages.
    """
    _open_closed_streams()
    handler = LineHandler(STANDARD_ERROR)
    if sys.stderr is not None and sys.stderr.isatty():  # None: it was closed, as by `2>&-`
        handler.setFormatter(_formatter(_TEXT))
    logging.basicConfig(level=level.upper(), handlers=[handler], force=True)
    for package, its_level in levels.items():
        logging.getLogger(package).setLevel(its_level.upper())


def first_line(error: BaseException) -> str:
    """Return the first line of an error's text: Postgres may quote rows in the others.

    For an error without a text, return what its class means, the text of its cause, or its class.
    """
    if text := str(error).strip().partition("\n")[0].strip():
        return text
    for kind, words in WITHOUT_TEXT.items():
        if isinstance(error, kind):
            return words
    return type(error).__name__ if error.__cause__ is None else first_line(error.__cause__)


def reason(error: BaseException) -> str:
    """Return the class of an error and the first line of its text; the class alone if there is no text."""
    name = type(error).__name__
    return f"{name}: {first_line(error)}".removesuffix(f": {name}")


class LineHandler(logging.Handler):
    """Writes each record as a line of JSON, or drops it when the reader leaves no room."""

    def __init__(self, descriptor: int) -> None:
        super().__init__()
        self.setFormatter(_formatter(_JSON))
        self._descriptor = descriptor
        self._room = select.poll()
        self._room.register(descriptor, select.POLLOUT)
        self._dropped = 0
        self._is_cut = False
        """Whether the last line was written in part, so that the next one begins with a line end."""

    def emit(self, record: logging.LogRecord) -> None:
        """Write the line, after the number of the lines that were dropped before it."""
        try:
            if not (self._write_dropped() and self._write(self.format(record))):
                self._dropped += 1
        except Exception:  # noqa: BLE001 - as every handler of the standard library does
            self.handleError(record)

    def _write_dropped(self) -> bool:
        """Write the number of dropped lines, if there are any; return False if there is no room for it."""
        if self._dropped:
            fields = {"name": __name__, "msg": "log.lines_dropped", "lines": self._dropped}
            record = logging.makeLogRecord({**fields, "levelname": "WARNING"})
            if self._write(self.format(record)):
                self._dropped = 0
        return not self._dropped

    def _write(self, text: str) -> bool:
        """Return whether the whole line was written. A pipe with room takes PIPE_BUF bytes at once."""
        begin = b"\n" if self._is_cut else b""
        line = begin + text.encode(errors="backslashreplace") + b"\n"
        written = 0
        with suppress(OSError):  # the reader has gone, or the disk is full
            while written < len(line) and self._room.poll(REST_OF_LINE_MS if written else 0):
                written += os.write(self._descriptor, line[written : written + select.PIPE_BUF])
        self._is_cut = 0 < written < len(line) or (self._is_cut and not written)
        return written == len(line)


def _formatter(renderers: list[Processor]) -> logging.Formatter:
    meta = stdlib.ProcessorFormatter.remove_processors_meta
    return stdlib.ProcessorFormatter(
        processors=[stdlib.ExtraAdder(), _head, _without_rows, meta, *renderers]
    )


def _head(_: object, level: str, fields: EventDict) -> EventDict:
    """Put the fields that every line has at its beginning."""
    record: logging.LogRecord = fields["_record"]
    time = datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds")
    fields.pop("color_message", None)  # uvicorn's message again, for a terminal
    head = {"time": time.replace("+00:00", "Z"), "level": level, "event": fields.pop("event")}
    return {**head, "logger": record.name, **fields}


def _without_rows(_: object, __: str, fields: EventDict) -> EventDict:
    """Remove DETAIL from errors of Postgres: it quotes rows, which hold what callers have sent."""
    exc_info = fields.get("exc_info")
    error = exc_info[1] if exc_info else None
    while error is not None:
        if isinstance(error, asyncpg.PostgresError):
            error.detail = None
        error = error.__cause__ or error.__context__
    return fields


_JSON: Final[list[Processor]] = [
    processors.format_exc_info,
    processors.JSONRenderer(default=str, ensure_ascii=False),
]
_TEXT: Final[list[Processor]] = [
    dev.ConsoleRenderer(
        timestamp_key="time", sort_keys=False, exception_formatter=dev.plain_traceback
    )
]


def _open_closed_streams() -> None:
    """Open /dev/null in place of each closed standard stream.

    Otherwise the next socket gets the stream's number, and libuv aborts when it closes that socket.
    """
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:  # open() takes the lowest free number, which is this one
            os.set_inheritable(os.open(os.devnull, os.O_RDWR), True)  # noqa: FBT003 - its only form
