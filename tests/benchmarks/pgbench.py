"""pgbench: the rows that the service writes for a new link, one statement a transaction."""

import re
import subprocess
from pathlib import Path

from deploy.local.postgres import wheel_bindir
from deploy.local.process import LocalError
from tests.benchmarks import counted
from tests.benchmarks.figures import Figures
from tests.benchmarks.stage import DOCUMENTS, ENTITIES, Database, checkpoint, fetch_row

SCRIPT = Path(__file__).with_name("link.sql")
PAYLOAD_BYTES = "SELECT octet_length(payload) AS bytes FROM outbox ORDER BY position DESC LIMIT 1"
PROCESSED = re.compile(r"actually processed: (\d+)")
RATE = re.compile(r"^tps = ([\d.]+)", re.MULTILINE)


async def measure(database: Database, clients: int, seconds: int) -> Figures:
    """Run right after the service, whose newest event says how long a payload is."""
    payload_bytes = (await fetch_row(database.dsn, PAYLOAD_BYTES))["bytes"]
    await checkpoint(database.dsn)
    async with counted.rows(database.dsn) as rows:
        output = run(
            database, payload_bytes, f"--client={clients}", "--jobs=1", f"--time={seconds}",
            f"--define=documents={DOCUMENTS}", f"--define=entities={ENTITIES}",
        )  # fmt: skip
    rows.check(int(_find(PROCESSED, output)))
    return {f"pgbench.c{clients}.rate": float(_find(RATE, output))}


def run(database: Database, payload_bytes: int, *options: str) -> str:
    """Run the script in the database's workspace and return what pgbench says."""
    command = [
        str(wheel_bindir() / "pgbench"), "--no-vacuum", "--protocol=prepared", f"--file={SCRIPT}",
        f"--define=workspace={database.workspace}", f"--define=payload_bytes={payload_bytes}",
        *options, database.dsn,
    ]  # fmt: skip
    done = subprocess.run(command, check=False, capture_output=True, text=True)
    if done.returncode != 0:
        raise LocalError(done.stderr)
    return done.stdout


def _find(pattern: re.Pattern[str], output: str) -> str:
    found = pattern.search(output)
    if found is None:
        raise LocalError(f"pgbench said something else:\n{output}")
    return found[1]
