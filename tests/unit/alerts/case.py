"""A case of an alert: the series of a job with a fault, and the times at which the alert fires."""

from collections.abc import Mapping
from typing import Any, Final, NamedTuple

ALWAYS: Final = float("inf")
"""Minutes until the end of a case."""
MOST: Final = 800
"""The number of samples of ALWAYS, which is more than any case has."""


class Values(NamedTuple):
    """The samples of a series: pieces of so many minutes with a value each."""

    pieces: tuple[tuple[float, float | None], ...]
    """None: the series has no samples for so many minutes."""
    grows: bool
    """Whether the value is what a counter grows by in a minute."""

    def text(self, every_s: int) -> str:
        """Return the samples in promtool's notation, in which `1+2x3` has four samples."""
        now, texts = 0.0, []
        for minutes, value in self.pieces:
            number = MOST if minutes == ALWAYS else round(minutes * 60 / every_s)
            step = (value or 0.0) * every_s / 60 if self.grows else 0.0
            start = now if self.grows else value
            texts.append(f"_x{number}" if value is None else f"{start}+{step}x{number - 1}")
            now += step * number
        return " ".join(texts)


def gauge(*pieces: tuple[float, float | None]) -> Values:
    """Return the samples of a gauge, as minutes and value."""
    return Values(pieces, grows=False)


def counter(*pieces: tuple[float, float | None]) -> Values:
    """Return the samples of a counter, as minutes and growth in a minute."""
    return Values(pieces, grows=True)


Series = Mapping[str, Values]
"""Samples by the name and the labels of a series, without the label `job`."""


class Pace(NamedTuple):
    """The seconds between two samples and between two evaluations of the rules."""

    samples_s: int
    evaluations_s: int


MINUTES: Final = Pace(30, 60)
HOURS: Final = Pace(60, 300)
DAYS: Final = Pace(900, 900)
"""The paces of cases that last for minutes, hours or days."""


class Case(NamedTuple):
    """Nothing fires at `quiet`, this alert alone fires at `fires`, and nothing fires at `over`.

    Times are in minutes.
    """

    alert: str
    name: str
    series: Series
    quiet: float
    fires: float
    over: float | None = None
    """None: the alert fires until the end."""
    pace: Pace = MINUTES
    of_job: bool = True
    """Whether the alert has the label `job`."""
    beside: bool = True
    """Whether the job `well` is beside that of the case, which is `sick`."""


def promtool_test(case: Case, well: Series, severity: str) -> dict[str, Any]:
    """Return promtool's test of a case."""
    series = _of_job("sick", case.series, case.pace.samples_s)
    series |= _of_job("well", well, case.pace.samples_s) if case.beside else {}
    job = ', job="sick"' if case.of_job else ""
    firing = f'ALERTS{{alertstate="firing", alertname="{case.alert}", severity="{severity}"{job}}}'
    expected: list[tuple[float | None, list[dict[str, object]]]] = [
        (case.quiet, []),
        (case.fires, [{"labels": firing, "value": 1}]),
        (case.over, []),
    ]
    return {
        "name": f"{case.alert}: {case.name}",
        "interval": f"{case.pace.samples_s}s",
        "input_series": [{"series": name, "values": series[name]} for name in series],
        "promql_expr_test": [
            {
                "expr": 'ALERTS{alertstate="firing"}',
                "eval_time": f"{round(minutes * 60)}s",
                "exp_samples": samples,
            }
            for minutes, samples in expected
            if minutes is not None
        ],
    }


def _of_job(job: str, series: Series, every_s: int) -> dict[str, str]:
    return {f'{name[:-1]}, job="{job}"}}': series[name].text(every_s) for name in series}
