"""The relay's figures of the last hour: a sample every 10 s, in memory."""

from collections import deque
from collections.abc import Callable
from typing import Final, NamedTuple

import msgspec

EVERY_S: Final = 10
SAMPLES: Final = 360
"""An hour of samples."""


class Figures(NamedTuple):
    """What the process knows at one moment; None: unknown."""

    at: float
    published: float
    """Events published since the process' start."""
    lag_events: int | None
    lag_seconds: float | None


class Columns(msgspec.Struct):
    """The samples in columns, oldest first; `begins_at` is the time of the process' start."""

    begins_at: float
    every_s: int
    at: list[float]
    events_per_second: list[float]
    lag_events: list[int | None]
    lag_seconds: list[float | None]


class History:
    """Takes samples of the figures that `read` returns."""

    def __init__(self, read: Callable[[], Figures]) -> None:
        self._read = read
        self._first = read()
        self._samples: deque[tuple[Figures, float]] = deque(maxlen=SAMPLES)

    def sample(self) -> None:
        """Keep the present figures, and the rate since the sample before them."""
        before = self._samples[-1][0] if self._samples else self._first
        now = self._read()
        seconds = max(now.at - before.at, 1.0)  # the clock may be set back
        self._samples.append((now, (now.published - before.published) / seconds))

    def rate(self) -> float | None:
        """Return the events a second of the last sample, None before the first one."""
        return round(self._samples[-1][1], 1) if self._samples else None

    def columns(self) -> Columns:
        """Return all samples."""
        figures = [each for each, _ in self._samples]
        return Columns(
            begins_at=round(self._first.at, 3),
            every_s=EVERY_S,
            at=[round(each.at, 1) for each in figures],
            events_per_second=[round(rate, 1) for _, rate in self._samples],
            lag_events=[each.lag_events for each in figures],
            lag_seconds=[_rounded(each.lag_seconds) for each in figures],
        )


def _rounded(seconds: float | None) -> float | None:
    return None if seconds is None else round(seconds, 3)
