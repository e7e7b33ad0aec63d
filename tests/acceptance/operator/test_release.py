"""Every place in which running programs show the release."""

import json
import platform
import re
import tomllib
from pathlib import Path

import httpx

from deploy.local import programs
from tests.telemetry.emitted import unlisted_metrics

TOP = Path(__file__).parents[3]
VERSION = tomllib.loads((TOP / "pyproject.toml").read_text())["project"]["version"]


def first_line(program: programs.Program) -> tuple[str, str]:
    """Return the event and the version of the program's first log line."""
    line = json.loads(program.log.read_text().splitlines()[0])
    return line["event"], line["version"]


def builds(program: programs.Program) -> list[str]:
    """Return the samples of the program's metric of the release."""
    return re.findall(
        r"^\w+_build_info\{.*$", httpx.get(f"{program.url}/metrics").text, re.MULTILINE
    )


def test_both_programs_show_the_release_and_only_listed_metrics(
    database: str, kafka: str, topic: str, tmp_path: Path
) -> None:
    """The first log lines, health, metrics and documents name the release of pyproject.toml.

    The metric is one series, although two processes of the service write to it. All metrics are listed
    in the program's `telemetry`.
    """
    with (
        programs.service(database, tmp_path, LINKS_WORKERS="2") as service,
        programs.worker(database, kafka, tmp_path, OUTBOX_TOPIC=topic) as worker,
    ):
        assert first_line(service) == ("service.starting", VERSION)
        assert first_line(worker) == ("worker.started", VERSION)
        for program in (service, worker):
            for page in ("healthz", "readyz"):
                assert httpx.get(f"{program.url}/{page}").json()["version"] == VERSION
        for page in ("openapi", "asyncapi"):
            described = httpx.get(f"{service.url}/{page}.json").json()
            assert described["info"]["version"] == VERSION
        python = platform.python_version()
        build = f'links_build_info{{python="{python}",version="{VERSION}"}} 1.0'
        assert builds(service) == [build]
        for program, module in ((service, "service"), (worker, "outbox_worker")):
            assert unlisted_metrics(module, httpx.get(f"{program.url}/metrics").text) == []
        assert builds(worker) == [f'outbox_build_info{{version="{VERSION}"}} 1.0']
