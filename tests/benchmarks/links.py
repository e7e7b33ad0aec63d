"""New links a second: the service under wrk, beside pgbench writing the same rows on the same tables."""

import json
import os
import random
import shutil
import subprocess
import tempfile
from collections.abc import Mapping
from pathlib import Path

import asyncpg

from deploy.local import programs
from deploy.local.postgres import wheel_bindir
from deploy.local.process import LocalError
from tests.benchmarks.figures import Figures, percentiles_ms
from tests.benchmarks.stage import DOCUMENTS, ENTITIES, SERVICE, Database, Stage, checkpoint

HERE = Path(__file__).parent
WARM_UP_S = 2
CASES = ((1, 1), (1, 32))
"""Worker processes of the service, connections."""

COUNTS = """
SELECT (SELECT count(*) FROM document_links) AS links, (SELECT count(*) FROM outbox) AS events
"""
PAYLOAD_BYTES = "SELECT octet_length(payload) AS bytes FROM outbox ORDER BY position DESC LIMIT 1"


async def measure(stage: Stage, database: Database, seconds: int) -> Figures:
    """Measure each case, and pgbench with as many clients right after it."""
    figures: Figures = {}
    for workers, connections in CASES:
        figures |= await _service(stage, database, workers, connections, seconds)
        figures |= await _pgbench(database, connections, seconds)
    return figures


async def _service(
    stage: Stage, database: Database, workers: int, connections: int, seconds: int
) -> Figures:
    await checkpoint(database.dsn)
    settings = {**SERVICE, "LINKS_WORKERS": str(workers)}
    with programs.service(database.dsn, stage.logs, **settings) as service:
        _wrk(service.url, database.key, connections, WARM_UP_S)
        before = await _row(database.dsn, COUNTS)
        done = _wrk(service.url, database.key, connections, seconds)
        after = await _row(database.dsn, COUNTS)
    _check(done, after["links"] - before["links"], after["events"] - before["events"], connections)
    name = f"links.w{workers}c{connections}"
    return {
        f"{name}.rate": done["requests"] / done["duration_us"] * 1e6,
        f"{name}.p50": done["p50_us"] / 1e3,
        f"{name}.p99": done["p99_us"] / 1e3,
    }


def _check(done: dict[str, int], links: int, events: int, connections: int) -> None:
    """Compare the answers with the rows: a figure of something that went wrong is none.

    A few random links are not new; a request on each connection may be cut off at the end.
    """
    if (
        done["failed"]
        or links != events
        or not 0.98 * done["requests"] <= links <= done["requests"] + connections
    ):
        message = f"answers, links and events do not agree: {done}, {links} links, {events} events"
        raise LocalError(message)


def _wrk(url: str, key: str, connections: int, seconds: int) -> dict[str, int]:
    if not shutil.which("wrk"):
        message = "wrk is not installed (Debian: apt-get install wrk)"
        raise LocalError(message)
    script = str(HERE / "link.lua")
    environment = {
        **os.environ,
        "BENCH_KEY": key,
        "BENCH_SEED": str(random.randrange(2**31)),
        "BENCH_DOCUMENTS": str(DOCUMENTS),
        "BENCH_ENTITIES": str(ENTITIES),
    }
    command = [
        "wrk",
        "-t1",
        f"-c{connections}",
        f"-d{seconds}s",
        "--timeout",
        "10s",
        "-s",
        script,
        url,
    ]
    output = subprocess.run(
        command, env=environment, check=True, capture_output=True, text=True
    ).stdout
    result: dict[str, int] = json.loads(output.splitlines()[-1])
    return result


async def _pgbench(database: Database, clients: int, seconds: int) -> Figures:
    """Run right after the service, whose newest event says how long a payload is."""
    payload_bytes = (await _row(database.dsn, PAYLOAD_BYTES))["bytes"]
    await checkpoint(database.dsn)
    micros = _transactions(database, clients, seconds, payload_bytes)
    name = f"pgbench.c{clients}"
    return {
        f"{name}.rate": len(micros) / seconds,
        **percentiles_ms(name, [1000 * each for each in micros]),
    }


def _transactions(database: Database, clients: int, seconds: int, payload_bytes: int) -> list[int]:
    """Return how many microseconds each of pgbench's transactions took."""
    with tempfile.TemporaryDirectory() as logs:
        command = [
            str(wheel_bindir() / "pgbench"), "--no-vacuum", "--protocol=prepared",
            f"--client={clients}", "--jobs=1", f"--time={seconds}", f"--file={HERE / 'link.sql'}",
            "--log", f"--log-prefix={logs}/log", f"--define=documents={DOCUMENTS}",
            f"--define=entities={ENTITIES}", f"--define=workspace={database.workspace}",
            f"--define=payload_bytes={payload_bytes}", database.dsn,
        ]  # fmt: skip
        done = subprocess.run(command, check=False, capture_output=True, text=True)
        if done.returncode != 0:
            raise LocalError(done.stderr)
        return [int(line.split()[2]) for log in Path(logs).iterdir() for line in log.open()]


async def _row(dsn: str, query: str) -> Mapping[str, int]:
    connection = await asyncpg.connect(dsn)
    try:
        rows = await connection.fetch(query)
        return dict(rows[0].items())
    finally:
        await connection.close()
