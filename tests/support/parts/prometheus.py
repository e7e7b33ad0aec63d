"""A Prometheus for one test, installed or in Docker, with the rules of deploy/prometheus."""

import math
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final, Self

import httpx
import yaml

from deploy.local.containers import Tool
from deploy.local.process import free_port

RULES: Final = sorted((Path(__file__).parents[3] / "deploy" / "prometheus").glob("*.yaml"))
EVERY: Final = "1s"


class Prometheus:
    """A Prometheus as a context manager; each job has the addresses of its programs."""

    def __init__(self, jobs: Mapping[str, Sequence[str]]) -> None:
        home = Path(tempfile.mkdtemp(prefix="prometheus-"))
        config = {
            "global": {"scrape_interval": EVERY, "evaluation_interval": EVERY},
            "rule_files": list(map(str, RULES)),
            "scrape_configs": [
                {"job_name": job, "static_configs": [{"targets": [*addresses]}]}
                for job, addresses in jobs.items()
            ],
        }
        (home / "prometheus.yml").write_text(yaml.safe_dump(config))
        listen = f"127.0.0.1:{free_port()}"
        self._url = f"http://{listen}"
        arguments = [
            f"--config.file={home / 'prometheus.yml'}",
            f"--storage.tsdb.path={home / 'data'}",
            f"--web.listen-address={listen}",
        ]
        self._process = Tool("prometheus", arguments, home / "log")

    def __enter__(self) -> Self:
        """Start it; return when it is ready."""
        self._process.start()
        self._process.wait_ready(self._ready, timeout_s=60)
        return self

    def __exit__(self, *_: object) -> None:
        """Stop it."""
        self._process.end()

    def values(self, query: str) -> list[float]:
        """Return the values of an instant query now, without those that are not a number."""
        result = self.get("query", query=query)["result"]
        values = [float(sample["value"][1]) for sample in result]
        return [value for value in values if not math.isnan(value)]

    def get(self, path: str, **parameters: str) -> Any:  # noqa: ANN401 - each path has its own form
        """Return the data of an answer of the HTTP API."""
        answer = httpx.get(f"{self._url}/api/v1/{path}", params=parameters).json()
        assert answer["status"] == "success", f"{parameters}: {answer}"
        return answer["data"]

    def _ready(self) -> bool:
        try:
            return httpx.get(f"{self._url}/-/ready").is_success
        except httpx.TransportError:
            return False
