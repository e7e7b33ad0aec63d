"""Standard error as both programs write to it; both hold this file byte for byte alike."""

import logging
import os
import select
from collections.abc import Callable
from contextlib import suppress
from typing import Final

REST_OF_LINE_MS: Final = 50
"""For the reader to make room for the rest of a line longer than PIPE_BUF, of which a part is written."""


class LineHandler(logging.Handler):
    """Writes lines to a file descriptor, and drops a line for which its reader leaves no room.

    A pipe that nobody reads holds 64 KiB. A write to it while it is full would block the event loop
    until the reader goes on. The number of dropped lines is logged as soon as there is room again.
    """

    def __init__(self, descriptor: int, dropped: Callable[[int], logging.LogRecord]) -> None:
        """Take where to write, and what tells how many lines were dropped."""
        super().__init__()
        self._dropped_lines = dropped
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
        if self._dropped and self._write(self.format(self._dropped_lines(self._dropped))):
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


def hold_standard_streams() -> None:
    """Open /dev/null in place of each closed stream: libuv aborts when it closes a socket with its number."""
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:  # the lowest number that is free is the one that open() takes
            os.set_inheritable(os.open(os.devnull, os.O_RDWR), True)  # noqa: FBT003 - its only form
