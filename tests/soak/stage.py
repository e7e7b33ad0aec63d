"""Where the soak takes place: a new database and topic, the world of the mix, and `verify` at the end."""

import asyncio
import itertools
import os
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final
from uuid import uuid4

import msgspec

from deploy.local.interruption import run_tool
from deploy.local.postgres import Postgres
from deploy.local.process import LocalError
from deploy.local.programs import create_key, migrate
from tests.benchmarks.stage import execute
from tests.soak.callers import CONNECTIONS, Answer, Connection
from tests.soak.mix import DOCUMENTS, Request, World, entities, put_document

DATABASE: Final = "soak"
ERROR_LEVELS: Final = {"error", "critical"}
CREATED: Final = 201


@dataclass(frozen=True)
class Stage:
    """The addresses of the servers, the worker's settings, the folder of the programs' logs, and a key."""

    dsn: str
    bootstrap: str
    logs: Path
    worker: dict[str, str]
    key: str


async def make_stage(postgres: Postgres, bootstrap: str, logs: Path) -> Stage:
    """Make the database anew; the worker makes the topic, which has a new name."""
    await execute(
        postgres.dsn(),
        f"DROP DATABASE IF EXISTS {DATABASE} WITH (FORCE)",
        f"CREATE DATABASE {DATABASE}",
    )
    dsn = postgres.dsn(DATABASE)
    migrate(dsn)
    worker = {"OUTBOX_TOPIC": f"soak-{uuid4().hex}"}
    return Stage(dsn, bootstrap, logs, worker, create_key(dsn, workspace="soak"))


async def make_world(url: str, key: str, world: World) -> None:
    """Make the entities, and the documents with all their links, through the service."""
    connections = [Connection(url, key) for _ in range(CONNECTIONS)]
    try:
        await _send_all(connections, list(entities()))
        answers = await _send_all(connections, [put_document(n + 1) for n in range(DOCUMENTS)])
    finally:
        for connection in connections:
            await connection.close()
    for number, answer in enumerate(answers, 1):
        document: dict[str, Any] = msgspec.json.decode(answer.body)["data"]
        world.link_ids[number] = [link["link_id"] for link in document["linked_entities"]]


async def _send_all(connections: list[Connection], requests: list[Request]) -> list[Answer]:
    """Return the answers, in the order of the requests; LocalError unless each of them is 201."""
    answers: dict[int, Answer] = {}
    numbers = itertools.count()

    async def send(connection: Connection) -> None:
        while (number := next(numbers)) < len(requests):
            answer = await connection.call(requests[number])
            if answer.status != CREATED:
                raise LocalError(f"{requests[number]} was answered {answer}")
            answers[number] = answer

    await asyncio.gather(*map(send, connections))
    return [answers[number] for number in range(len(requests))]


def errors_logged(stage: Stage) -> list[str]:
    """Return the lines of both programs' logs whose level is an error."""
    lines = [line for log in stage.logs.glob("*.log") for line in log.read_text().splitlines()]
    return [line for line in lines if _level(line) in ERROR_LEVELS]


def _level(line: str) -> str:
    """Return the level of a line; of one that is no JSON, such as a traceback, `error`."""
    try:
        return str(msgspec.json.decode(line)["level"])
    except (msgspec.DecodeError, KeyError, TypeError):
        return "error"


def verify(stage: Stage) -> dict[str, Any]:
    """Compare the outbox with the whole topic; return the exit code and the report of `verify`."""
    environment = {
        **os.environ,
        **stage.worker,
        "DATABASE_URL": stage.dsn,
        "KAFKA_BOOTSTRAP_SERVERS": stage.bootstrap,
    }
    command = [sys.executable, "-m", "outbox_worker", "verify", "--all", "--json"]
    done = run_tool(command, env=environment)
    report = msgspec.json.decode(done.stdout) if done.stdout else done.stderr
    return {"code": done.returncode, "report": report}
