"""FastAPI with SQLAlchemy, in an environment of its own: what a product team would write."""

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import asyncpg
import httpx

from deploy.local.process import Process, free_port
from tests.benchmarks.peers.peer import Peer
from tests.benchmarks.stage import DOCUMENTS, ENTITIES, Stage
from tests.support import environments

APP = Path(__file__).parent / "fastapi_app"
REQUIREMENTS = APP / "requirements.txt"
KEY = "bench-fastapi-key"
READY_S = 60
SEED = """
INSERT INTO documents SELECT $1::uuid, 'doc_' || n FROM generate_series(1, $2::int) AS n
"""
SEED_ENTITIES = """
INSERT INTO entities SELECT $1::uuid, 'deal', 'deal_' || n FROM generate_series(1, $2::int) AS n
"""
WORKSPACE = "00000000-0000-0000-0000-000000000001"
COUNTS = """
SELECT (SELECT count(*) FROM document_links) AS links, (SELECT count(*) FROM outbox) AS events
"""


async def make(stage: Stage) -> Peer:
    """Install it, give it tables and something to link."""
    python = environments.install("fastapi", REQUIREMENTS)
    dsn = await stage.create("bench_fastapi")
    settings = {"DATABASE_URL": dsn.replace("postgresql:", "postgresql+asyncpg:")}
    environments.run([python, str(APP / "main.py")], settings)
    connection = await asyncpg.connect(dsn)
    try:
        await connection.execute(SEED, WORKSPACE, DOCUMENTS)
        await connection.execute(SEED_ENTITIES, WORKSPACE, ENTITIES)
        digest = hashlib.sha256(KEY.encode()).digest()
        await connection.execute("INSERT INTO api_keys VALUES ($1, $2)", digest, WORKSPACE)
        await connection.execute("VACUUM ANALYZE")
    finally:
        await connection.close()
    return Peer(
        "fastapi", dsn, partial(_running, python, settings, stage.logs), COUNTS, KEY, "link"
    )


@contextmanager
def _running(python: str, settings: dict[str, str], logs: Path) -> Iterator[str]:
    """Yield the URL of one process of it, served as we serve ours."""
    port = free_port()
    command = [
        python, "-m", "uvicorn", "main:app", "--app-dir", str(APP), "--port", str(port),
        "--loop", "uvloop", "--http", "httptools", "--no-access-log", "--log-level", "warning",
    ]  # fmt: skip
    process = Process("FastAPI", command, logs / "fastapi.log", env=settings)
    url = f"http://127.0.0.1:{port}"
    process.start()
    try:
        process.wait_ready(lambda: _serves(url), timeout_s=READY_S)
        yield url
    finally:
        process.end()


def _serves(url: str) -> bool:
    try:
        return httpx.get(f"{url}/healthz", timeout=2).is_success
    except httpx.TransportError:
        return False
