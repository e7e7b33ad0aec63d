"""The form of what `telemetry` lists: metrics and log events. Both programs have the same file."""

from collections.abc import Mapping
from typing import Final, Literal, NamedTuple, TypeVar

NOTHING: Final[Mapping[str, str]] = {}


class Metric(NamedTuple):
    """A metric, under the name that Prometheus stores; `labels` has the meaning of each label."""

    name: str
    kind: Literal["counter", "gauge", "histogram"]
    unit: str
    meaning: str
    labels: Mapping[str, str] = NOTHING

    @property
    def described(self) -> tuple[str, str, tuple[str, ...]]:
        """Name, meaning and labels: the first arguments of the classes of prometheus-client."""
        return self.name, self.meaning, tuple(self.labels)


class LogEvent(NamedTuple):
    """A log event: its level (or several, joined by " or ") and the meaning of each of its fields.

    `action` is what an operator has to do; it is empty if there is nothing to do.
    """

    name: str
    level: str
    meaning: str
    fields: Mapping[str, str] = NOTHING
    action: str = ""


Listed = TypeVar("Listed", Metric, LogEvent)


def by_name(*listed: Listed) -> dict[str, Listed]:
    """Return metrics or log events by their names."""
    return {each.name: each for each in listed}
