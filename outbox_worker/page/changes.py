"""The worker's last changes of state: its last log lines, with their fields."""

import logging
from collections import deque
from typing import Any, Final

import msgspec

KEPT: Final = 20
_STANDARD: Final = {*logging.makeLogRecord({}).__dict__, "message", "taskName"}


class Change(msgspec.Struct, frozen=True):
    """A log line."""

    at: float
    level: str
    event: str
    fields: dict[str, Any]


class Changes(logging.Handler):
    """Keeps the last lines of the logger to which it is added."""

    def __init__(self) -> None:
        super().__init__()
        self._lines: deque[Change] = deque(maxlen=KEPT)

    def emit(self, record: logging.LogRecord) -> None:
        """Keep a line."""
        fields = {k: v for k, v in record.__dict__.items() if k not in _STANDARD}
        event = record.getMessage()
        self._lines.append(Change(record.created, record.levelname.lower(), event, fields))

    def newest_first(self) -> list[Change]:
        """Return the lines."""
        return [*reversed(self._lines)]
