"""Models that generators make of the events read every kind of event."""

import shutil
import sys
from collections.abc import Callable
from pathlib import Path

import httpx
import pytest

from deploy.local import programs
from tests.contract.clients import tools
from tests.contract.clients.languages import MYPY, Command, typescript
from tests.contract.clients.tools import HERE, run
from tests.contract.documents import made_now
from tests.support.relay.worker import Worker
from tests.support.topic import topics

EXPECTED = """\
document.linked 1 ship_1 None was None
document.linked 2 deal_1 draft was None
document.link_updated 3 deal_1 signed was draft
document.unlinked 4 deal_1 signed was signed
document.restored 5 deal_1 final was signed
snapshot.began 0 0
document.linked 5 ship_1 None was None
document.linked 5 deal_1 final was None
snapshot.ended 0 2
"""


def datamodel_code_generator(folder: Path) -> Command:
    """Generate pydantic models from the AsyncAPI document; check them and the program with mypy."""
    environment = tools.python()
    options = (
        "--output-model-type",
        "pydantic_v2.BaseModel",
        "--enum-field-as-literal",
        "one",
        "--use-annotated",
    )
    run(
        environment / "datamodel-codegen", "--input", "asyncapi.json", "--input-file-type", "asyncapi",
        "--output", "models.py", "--target-python-version", "3.11", "--formatters", "builtin", *options,
        cwd=folder,
    )  # fmt: skip
    shutil.copy(HERE / "python" / "events.py", folder)
    (folder / "mypy.ini").write_text(MYPY)
    mypy = [sys.executable, "-m", "mypy", "--config-file", "mypy.ini"]
    run(*mypy, "--python-executable", environment / "python", "events.py", cwd=folder)
    return [environment / "python", "events.py"]


def json_schema_to_typescript(folder: Path) -> Command:
    """Generate a type from the JSON Schema of each event; compile the program with tsc."""
    for schema in (*folder.glob("document.*.json"), *folder.glob("snapshot.*.json")):
        tools.npm("json2ts", schema, schema.with_suffix(".ts"), cwd=folder)
    return typescript(folder, "events.ts")


async def change_links(url: str, key: str) -> None:
    """Make one change of each kind."""
    async with httpx.AsyncClient(base_url=url, headers={"X-API-KEY": key}) as client:
        document = "/v1/documents/doc_1"
        deal = {"entity_type": "deal", "entity_id": "deal_1"}
        await client.put(document, json={"resources": ["ship_1"]})
        linked = await client.post(f"{document}/link", json={**deal, "role": "draft"})
        link = f"{document}/links/{linked.json()['data']['link_id']}"
        await client.patch(link, json={"role": "signed"})
        await client.delete(link)
        await client.post(f"{document}/link", json={**deal, "role": "final"})


async def published(database: str, kafka: str, topic: str, folder: Path) -> str:
    """Return the values of the topic, then those of a snapshot, one a line."""
    key = programs.create_key(database)
    with programs.service(database, folder, LINKS_ENTITY_POLICY="any") as program:
        await change_links(program.url, key)
    with Worker(database, kafka, topic, OUTBOX_PARTITIONS="1") as worker:
        live = await topics.wait_for_count(kafka, topic, 5)
        assert worker.command("snapshot", "--yes") == 0, worker.output()
        snapshot = await topics.read_all(kafka, f"{topic}.snapshot")
    return "".join(f"{record.value.decode()}\n" for record in (*live, *snapshot))


@pytest.mark.timeout(600)
@pytest.mark.parametrize("generate", [datamodel_code_generator, json_schema_to_typescript])
async def test_generated_models_read_every_kind_of_event(
    database: str, kafka: str, topic: str, tmp_path: Path, generate: Callable[[Path], Command]
) -> None:
    """Every kind of event is read, as the service and the worker publish it, with its values.

    pydantic validates each whole event. TypeScript's types exist for the compiler only: at run time, that
    program checks the event's type, and the values that it prints.
    """
    for name, content in (await made_now()).items():
        (tmp_path / name).write_bytes(content)
    command = generate(tmp_path)
    events = await published(database, kafka, topic, tmp_path)
    assert run(*command, cwd=tmp_path, stdin=events) == EXPECTED
