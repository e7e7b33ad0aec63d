"""OpenFGA, in Go: the same relation, kept as a tuple, and an entry in its changelog."""

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import httpx

from deploy.local.process import Process, free_port
from tests.benchmarks.peers import golang
from tests.benchmarks.peers.peer import Peer, Running
from tests.benchmarks.stage import Stage
from tests.support import environments

PACKAGE = "github.com/openfga/openfga/cmd/openfga"
VERSION = "v1.22.1"
KEY = "bench-openfga-key"
COUNTS = "SELECT (SELECT count(*) FROM tuple) AS links, (SELECT count(*) FROM changelog) AS events"
MODEL = {
    "schema_version": "1.1",
    "type_definitions": [
        {"type": "deal"},
        {
            "type": "document",
            "relations": {"signed": {"this": {}}},
            "metadata": {
                "relations": {"signed": {"directly_related_user_types": [{"type": "deal"}]}}
            },
        },
    ],
}
READY_S = 30


async def make(stage: Stage) -> Peer:
    """Build it, give it a database, a store and a model."""
    program = str(golang.install(PACKAGE, VERSION))
    dsn = await stage.create("bench_openfga")
    engine = ["--datastore-engine", "postgres", "--datastore-uri", dsn]
    environments.run([program, "migrate", *engine])
    running = partial(_running, [program, "run", *engine], stage.logs)
    return Peer("openfga", dsn, running, COUNTS, KEY, "tuple", _make_store(running))


def _make_store(running: Running) -> dict[str, str]:
    """Return the ids of a new store and its model."""
    headers = {"Authorization": f"Bearer {KEY}"}
    with running() as url, httpx.Client(base_url=url, headers=headers) as client:
        store = client.post("/stores", json={"name": "bench"}).raise_for_status().json()["id"]
        made = client.post(f"/stores/{store}/authorization-models", json=MODEL).raise_for_status()
    return {"STORE": store, "MODEL": made.json()["authorization_model_id"]}


@contextmanager
def _running(command: list[str], logs: Path) -> Iterator[str]:
    """Yield its URL. It logs only warnings, and keeps 32 connections like everybody here."""
    http, grpc, metrics = (f"127.0.0.1:{free_port()}" for _ in range(3))
    options = [
        "--http-addr", http, "--grpc-addr", grpc, "--metrics-addr", metrics,
        "--playground-enabled=false", "--log-format", "json", "--log-level", "warn",
        "--authn-method", "preshared", "--authn-preshared-keys", KEY,
        "--datastore-max-open-conns", "32", "--datastore-max-idle-conns", "32",
    ]  # fmt: skip
    process = Process("OpenFGA", [*command, *options], logs / "openfga.log")
    process.start()
    try:
        process.wait_ready(lambda: _serves(f"http://{http}"), timeout_s=READY_S)
        yield f"http://{http}"
    finally:
        process.end()


def _serves(url: str) -> bool:
    try:
        return httpx.get(f"{url}/healthz", timeout=2).is_success
    except httpx.TransportError:
        return False
