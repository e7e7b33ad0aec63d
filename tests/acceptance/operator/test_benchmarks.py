"""`make bench` with small numbers."""

import asyncio
import json
import os
import sys
from pathlib import Path

import pytest

from deploy.local.postgres import Postgres


@pytest.mark.timeout(300)  # half a minute where nothing else runs
async def test_measures_and_counts(postgres: Postgres, kafka: str, tmp_path: Path) -> None:
    """The benchmark ends, its counts of rows, events and answers agree, and its figures are written."""
    output = tmp_path / "figures.json"
    bench = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "tests.benchmarks", "--only", "held,growth", "--rounds", "1",
        "--seconds", "1", "--events", "50000", "--links", "2000", "--output", str(output),
        env={**os.environ, "DATABASE_URL": postgres.dsn(), "KAFKA_BOOTSTRAP_SERVERS": kafka},
        stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
    )  # fmt: skip
    _, complaints = await bench.communicate()
    assert bench.returncode == 0, complaints.decode()
    targets = {each["what"] for each in json.loads(output.read_text())["targets"]}
    assert {"drain beside an open transaction", "link in a great workspace, p50"} <= targets
