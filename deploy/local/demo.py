"""A demonstration of both programs: it links a document over HTTP and reads the event from Kafka."""

import asyncio
import json
import os
import secrets
import shlex
import sys
import tempfile
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
from aiokafka import AIOKafkaConsumer
from rich.console import Console

from deploy.local.kafka import find_kafka
from deploy.local.postgres import find_postgres
from deploy.local.process import LocalError, Process, claim, free_port, is_free, say
from deploy.local.programs import create_key, migrate, service, worker

TOPIC = os.environ.get("OUTBOX_TOPIC", "document-links")
EVENT_S = 30
POLL_MS = 500
DOCUMENT = "doc_contract"
console = Console(highlight=False, soft_wrap=True)


@dataclass(frozen=True)
class Demo:
    """The running programs and servers, and the entities to link, which are new at each run."""

    url: str
    key: str
    dsn: str
    bootstrap: str
    programs: tuple[Process, ...]
    deal: str
    shipment: str


def run() -> None:
    """Start everything, link, and show events until interrupted; LocalError if a program ends."""
    with (
        tempfile.TemporaryDirectory(prefix="document-links-") as folder,
        find_kafka() as kafka,
        find_postgres() as postgres,
    ):
        dsn, logs = postgres.dsn(), Path(folder)
        say("migrating, making a workspace and a key …")
        migrate(dsn)
        key = create_key(dsn)
        say(f"starting the service and the worker (logs: {logs}) …")
        with (
            service(dsn, logs, LINKS_PORT=_port("LINKS_PORT", 8080)) as api,
            worker(
                dsn, kafka.bootstrap, logs, OUTBOX_HTTP_PORT=_port("OUTBOX_HTTP_PORT", 9090)
            ) as relay,
        ):
            tag = secrets.token_hex(3)
            programs = (api, relay)
            demo = Demo(api.url, key, dsn, kafka.bootstrap, programs, f"deal_{tag}", f"ship_{tag}")
            asyncio.run(_show(demo))


async def _show(demo: Demo) -> None:
    async with (
        _events(demo.bootstrap) as consumer,
        httpx.AsyncClient(base_url=demo.url, headers={"X-API-KEY": demo.key}) as client,
    ):
        await _prepare(client, demo)
        await _link(client, consumer, demo)
        _print_what_to_try(demo)
        await _follow(consumer, demo)


async def _prepare(client: httpx.AsyncClient, demo: Demo) -> None:
    """Make a document and the entities to link it with."""
    document = {"display_name": "Contract", "category": "legal"}
    (await client.put(f"/v1/documents/{DOCUMENT}", json=document)).raise_for_status()
    for path in (f"deal/{demo.deal}", f"shipment/{demo.shipment}"):
        (await client.put(f"/v1/entities/{path}")).raise_for_status()


async def _link(client: httpx.AsyncClient, consumer: AIOKafkaConsumer, demo: Demo) -> None:
    """Link once and wait for the event."""
    path = f"/v1/documents/{DOCUMENT}/link"
    body = {"entity_type": "deal", "entity_id": demo.deal, "role": "signed"}
    began = time.perf_counter()
    response = await client.post(path, json=body)
    answered = time.perf_counter()
    response.raise_for_status()
    try:
        message = await asyncio.wait_for(consumer.getone(), EVENT_S)
    except TimeoutError:
        error = f"no event arrived within {EVENT_S} s\n{demo.programs[1].log_tail()}"
        raise LocalError(error) from None
    arrived = time.perf_counter()
    console.print(f"\n[bold]POST {path}[/bold] → {response.status_code}")
    console.print_json(response.text)
    console.print(f"[bold]Kafka, topic {message.topic}, partition {message.partition}[/bold]")
    console.print_json(message.value.decode())
    console.print(
        f"answered in {1000 * (answered - began):.1f} ms, "
        f"the event {1000 * (arrived - answered):.1f} ms after that\n"
    )


def _print_what_to_try(demo: Demo) -> None:
    body = json.dumps({"resource_id": demo.shipment})
    console.print("In another terminal, in this folder, link something yourself:\n")
    print(
        f"curl -X POST {demo.url}/v1/documents/{DOCUMENT}/links"
        f" -H 'Authorization: Bearer {demo.key}' -H 'Content-Type: application/json'"
        f" -d {shlex.quote(body)}"
    )
    console.print(f"\n{demo.url}/docs shows every call.")
    console.print("\nThe examples of README.md and all commands work there after these lines:\n")
    for name, value in _environment(demo).items():
        print(f"export {name}={shlex.quote(value)}")
    console.print("\nCommands to try:\n")
    for command in ("outbox_worker status", "outbox_worker verify", "service keys list"):
        print(f"{_interpreter()} -m {command}")
    console.print("\nEvents as they arrive (Ctrl-C ends all):")


def _environment(demo: Demo) -> dict[str, str]:
    """Return the variables that the programs' commands and the README's examples read."""
    given = {name: value for name, value in os.environ.items() if name.startswith("OUTBOX_")}
    return {
        "DATABASE_URL": demo.dsn,
        "KAFKA_BOOTSTRAP_SERVERS": demo.bootstrap,
        "URL": demo.url,
        "KEY": demo.key,
        **given,
    }


def _interpreter() -> str:
    """Return the path of this Python, relative to the current folder if it is below it."""
    path = Path(sys.executable)
    here = Path.cwd()
    return str(path.relative_to(here) if path.is_relative_to(here) else path)


async def _follow(consumer: AIOKafkaConsumer, demo: Demo) -> None:
    """Print events until interrupted; LocalError if a program has ended."""
    while True:
        for messages in (await consumer.getmany(timeout_ms=POLL_MS)).values():
            for message in messages:
                console.print(_line(json.loads(message.value)))
        for program in demo.programs:
            if not program.running:
                raise LocalError(program.how_it_ended())


def _line(event: dict[str, Any]) -> str:
    link = event["data"]["link"]
    resource = f"{link['resource']['type']} {link['resource']['id']}"
    version = event["data"]["document_version"]
    return f"{event['time']}  {event['type']}  {event['subject']} → {resource}  version {version}"


@asynccontextmanager
async def _events(bootstrap: str) -> AsyncIterator[AIOKafkaConsumer]:
    """Yield a consumer of the events that are committed from now on."""
    consumer = AIOKafkaConsumer(
        TOPIC, bootstrap_servers=bootstrap, isolation_level="read_committed"
    )
    await consumer.start()
    try:
        await consumer.seek_to_end()
        for partition in consumer.assignment():
            # aiokafka seeks lazily: without this call, the end would be read after the first event.
            await consumer.position(partition)
        yield consumer
    finally:
        await consumer.stop()


def _port(variable: str, usual: int) -> str:
    """Return the port that the variable names, else the usual one if it is free, else a free one."""
    if given := os.environ.get(variable):
        return given
    return str(usual if is_free(usual) and claim(usual) else free_port())
