"""The changelog names everything new that operators can see, compared with the last release's code."""

import re
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import typer

from outbox_worker import __main__ as worker
from service import __main__ as service
from tests.support.releases.history import text_of_last_release
from tests.telemetry.emitted import EVENTS, METRICS

TOP = Path(__file__).parents[2]
NEWEST = (TOP / ".github/CHANGELOG.md").read_text().split("\n## [")[1]
SETTING = re.compile(r"`((?:LINKS|OUTBOX|KAFKA)_[A-Z_]+)`")


def log_events() -> Iterator[str]:
    """Yield the name of each log event of either program."""
    yield from (name for events in EVENTS.values() for name in events)


def metrics() -> Iterator[str]:
    """Yield the name of each metric, without a counter's suffix."""
    yield from (name.removesuffix("_total") for each in METRICS.values() for name in each)


def settings() -> Iterator[str]:
    """Yield each setting that the README names."""
    yield from SETTING.findall((TOP / "README.md").read_text())


def commands() -> Iterator[str]:
    """Yield the name of each command and group, and each option."""
    groups = [typer.main.get_command(program.app) for program in (service, worker)]
    while groups:
        group = groups.pop()
        yield from (each for option in group.params for each in option.opts if each[:2] == "--")
        found = getattr(group, "commands", {})
        yield from found
        groups += found.values()


def is_in(name: str, source: str) -> bool:
    """Whether the source has the name as a text, or a function, parameter or field that gives it."""
    identifier = name.removeprefix("--").replace("-", "_")
    return bool(
        re.search(
            rf'"{re.escape(name)}(_total)?"|\bdef {identifier}\(|^ +{identifier}:',
            source,
            re.MULTILINE,
        )
    )


@pytest.mark.parametrize("names", [log_events, metrics, settings, commands])
def test_the_changelog_names_what_is_new(names: Callable[[], Iterator[str]]) -> None:
    """Each log event, metric, setting, command and option that the last release lacks is named."""
    present = set(names())
    if names is settings:
        before = text_of_last_release("README.md")
        new = {name for name in present if f"`{name}`" not in before}
    else:
        before = text_of_last_release("service/*.py", "outbox_worker/*.py")
        new = {name for name in present if not is_in(name, before)}
    assert len(new) < len(present)
    assert {name for name in new if not re.search(rf"(?<![\w-]){name}(_total)?\b", NEWEST)} == set()
