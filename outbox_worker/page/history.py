"""The relay's figures of the last hour: a sample every 10 s, in memory."""

import time
from bisect import bisect_left
from collections import deque
from collections.abc import Callable, Sequence
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
    ages: Sequence[float]
    """The number of these events that were not older than each bound at their publication, and of all."""


class Sample(NamedTuple):
    """Figures, and what they tell of the time since the sample before them."""

    at: float
    events_per_second: float
    lag_events: int | None
    lag_seconds: float | None
    age_p50: float | None
    age_p99: float | None


class Columns(msgspec.Struct):
    """The samples in columns, oldest first; `begins_at` is the time of the process' start.

    `hour_p50` and `hour_p99` are the ages at publication, in seconds, of all events of these samples.
    """

    begins_at: float
    every_s: int
    hour_p50: float | None
    hour_p99: float | None
    at: Sequence[float]
    events_per_second: Sequence[float]
    lag_events: Sequence[int | None]
    lag_seconds: Sequence[float | None]
    age_p50: Sequence[float | None]
    age_p99: Sequence[float | None]


class History:
    """Takes samples of the figures that `read` returns; `bounds` are those of the ages, in seconds."""

    def __init__(self, read: Callable[[], Figures], bounds: Sequence[float]) -> None:
        self._read = read
        self._bounds = bounds
        self._begins_at = time.time()
        # The figures at each sample, and those before the first one.
        self._figures = deque([read()], maxlen=SAMPLES + 1)
        self._samples: deque[Sample] = deque(maxlen=SAMPLES)

    def sample(self) -> None:
        """Keep the present figures, and forget the sample of an hour ago."""
        before, now = self._figures[-1], self._read()
        seconds = max(now.at - before.at, 1.0)  # the clock may be set back
        rate = round((now.published - before.published) / seconds, 1)
        ages = self._quantiles(before, now)
        self._figures.append(now)
        self._samples.append(
            Sample(round(now.at, 1), rate, now.lag_events, _rounded(now.lag_seconds), *ages)
        )

    def rate(self) -> float | None:
        """Return the events a second of the last sample, None before the first one."""
        return self._samples[-1].events_per_second if self._samples else None

    def columns(self) -> Columns:
        """Return all samples."""
        hour = self._quantiles(self._figures[0], self._figures[-1])
        columns = (
            zip(*self._samples, strict=True) if self._samples else ([] for _ in Sample._fields)
        )
        return Columns(self._begins_at, EVERY_S, *hour, *columns)

    def _quantiles(self, before: Figures, now: Figures) -> tuple[float | None, float | None]:
        """Return the median and the 99th percentile of the ages of the events between two samples."""
        counts = [after - earlier for earlier, after in zip(before.ages, now.ages, strict=True)]
        return (
            _rounded(quantile(0.5, self._bounds, counts)),
            _rounded(quantile(0.99, self._bounds, counts)),
        )


def quantile(share: float, bounds: Sequence[float], counts: Sequence[float]) -> float | None:
    """Return a quantile of a histogram, interpolated as by Prometheus' histogram_quantile.

    `counts` has the number of values up to each bound, and then that of all. Above the last bound, the
    quantile is that bound. None: there are no values.
    """
    rank = share * counts[-1]
    if rank <= 0:
        return None
    bucket = bisect_left(counts, rank)
    if bucket >= len(bounds):
        return bounds[-1]
    lower, below = (bounds[bucket - 1], counts[bucket - 1]) if bucket else (0.0, 0.0)
    return lower + (bounds[bucket] - lower) * (rank - below) / (counts[bucket] - below)


def _rounded(seconds: float | None) -> float | None:
    return None if seconds is None else round(seconds, 3)
