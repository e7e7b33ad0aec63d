"""What an operator does when the table or the topic is not as it should be."""

import httpx
import pytest
from aiokafka import AIOKafkaProducer

from deploy.local import programs
from tests.acceptance.subscriber.conftest import Stage
from tests.support.relay import links
from tests.support.service.api import Api, Link, new_key, seed
from tests.support.topic import topics
from tests.support.topic.made import SNAPSHOT, event, marker, record
from tests.support.topic.table import Member, active, expected, read_up_to_the_end

WORKSPACE = "SELECT id::text FROM workspaces WHERE name = 'test'"
PLANT = """
WITH removed AS (DELETE FROM documents WHERE key LIKE '%/doc_1')
UPDATE links SET role = 'another' WHERE document_id = 'doc_2' AND entity_type = 'deal'
"""
"""A document that the table does not know, and a wrong role."""
HALTED = 3


async def call(api: Api) -> None:
    """Link three documents with two entities, unlink one, and delete a document."""
    for number in range(1, 4):
        await api.link(f"doc_{number}", Link("deal", "deal_1", "signed"))
        await api.add(f"doc_{number}", "ship_1")
    await api.unlink("doc_2", (await api.links("doc_2", resource_type="shipment"))[0]["id"])
    assert (await api.client.delete("/v1/documents/doc_3")).is_success


async def test_a_difference_is_found_and_repaired_by_a_snapshot(stage: Stage) -> None:
    """--verify passes, names what is planted and fails, and passes again after --snapshot."""
    key = await new_key(stage.database)
    workspace = await stage.connection.fetchval(WORKSPACE)
    await seed(stage.connection, 3, 1)
    with (
        programs.service(stage.database, stage.logs) as service,
        stage.worker(partitions=2) as worker,
        stage.member() as member,
    ):
        verify = ("--verify", workspace)
        reached = {"URL": service.url, "KEY": key}
        headers = {"X-API-KEY": key}
        async with httpx.AsyncClient(base_url=service.url, headers=headers) as client:
            await call(Api(client, key))
        await topics.wait_for_count(stage.kafka, stage.topic, await stage.events())
        await read_up_to_the_end(stage.table, stage.kafka, stage.topic, member)
        assert await member.command(*verify, **reached) == 0, member.output()
        assert "the links of 3 documents are those of the service" in member.output()
        await stage.table.execute(PLANT)
        assert await member.command(*verify, **reached) == 1, member.output()
        assert "2 documents differ from the service" in member.output()
        assert (
            "document_id='doc_1', entity_type='deal', entity_id='deal_1', role='signed'"
            in member.output()
        )
        assert worker.command("snapshot", "--yes") == 0, worker.output()
        assert await member.command("--snapshot") == 0, member.output()
        assert await active(stage.table) == await expected(stage.connection) != set()
        assert await member.command(*verify, **reached) == 0, member.output()
        await refused(member, verify, reached | {"KEY": key[:-1]}, "was answered 401")
        await refused(member, verify, reached | {"URL": "http://127.0.0.1:9"}, "is not answered")
        assert member.running


async def refused(
    member: Member, verify: tuple[str, ...], reached: dict[str, str], said: str
) -> None:
    """--verify ends with exit code 1 and one sentence."""
    assert await member.command(*verify, **reached) == 1, member.output()
    assert said in member.output()
    assert "Traceback" not in member.output()


@pytest.mark.parametrize(
    ("partitions", "said"),
    [(1, "has 1 partitions, and the relay uses 2"), (3, "the relay does not use this partition")],
)
async def test_a_snapshot_with_other_partitions_is_refused(
    stage: Stage, partitions: int, said: str
) -> None:
    """The table stays as it is: the rows of a document would have another partition than its events."""
    await links.seed(stage.connection, 3, 1)
    for document in ("doc_1", "doc_2", "doc_3"):
        await links.toggle(stage.connection, document, "1")
    await topics.make(stage.kafka, f"{stage.topic}.snapshot", partitions, {})
    with stage.worker(partitions=2) as worker:
        await topics.wait_for_count(stage.kafka, stage.topic, 3)
        assert worker.command("snapshot", "--yes") == 0, worker.output()
        with stage.member() as member:
            await read_up_to_the_end(stage.table, stage.kafka, stage.topic, member)
            assert await member.command("--snapshot") == HALTED, member.output()
            assert said in member.output()
    assert await active(stage.table) == await expected(stage.connection) != set()


async def test_a_gap_is_closed_by_a_replay(stage: Stage) -> None:
    """A missing event halts the subscriber, half a snapshot changes nothing, and --replay closes the gap."""
    await links.seed(stage.connection, 1, 3)
    for entity in ("1", "2", "3"):
        await links.toggle(stage.connection, "doc_1", entity)
    with stage.worker(partitions=1) as worker:
        first, _, third = await topics.wait_for_count(stage.kafka, stage.topic, 3)
        torn = f"{stage.topic}.torn"
        await topics.make(stage.kafka, torn, 1, {})
        member = stage.member("one", torn)
        async with AIOKafkaProducer(bootstrap_servers=stage.kafka) as producer:
            for each in (first, third):
                await producer.send_and_wait(torn, each.value, each.key, 0)
            await begin_a_snapshot(stage.kafka, f"{torn}.snapshot", producer)
        with member:
            assert await member.ended() == HALTED, member.output()
        assert f"halted: {torn} partition 0 offset 1, " in member.output()
        assert "version 3 of the document after version 1" in member.output()
        assert await member.command("--snapshot") == HALTED, member.output()
        assert len(await active(stage.table)) == 1
        arguments = ("--from", "2020-01-01", "--to", "2100-01-01", "--yes")
        assert worker.command("replay", *arguments, "--topic", f"{torn}.replay") == 0
        assert await member.command("--replay") == 0, member.output()
        assert await active(stage.table) == await expected(stage.connection)


async def test_a_poison_message_is_not_skipped(stage: Stage) -> None:
    """It halts each start, and so does a position at which the topic has no record."""
    await topics.make(stage.kafka, stage.topic, 1, {})
    member = stage.member("one")
    async with AIOKafkaProducer(bootstrap_servers=stage.kafka) as producer:
        for value in (record(0, event(1)).value, b"{", record(2, event(2, link=2)).value):
            await producer.send_and_wait(stage.topic, value, record(0, event(1)).key, 0)
    for starts in (1, 2):
        with member:
            assert await member.ended() == HALTED, member.output()
        assert member.output().count(f"{stage.topic} partition 0 offset 1, key") == starts
    assert await stage.table.fetchval("SELECT next_offset FROM positions") == 1
    assert len(await active(stage.table)) == 1
    await stage.table.execute("UPDATE positions SET next_offset = 1000")
    with member:
        assert await member.ended() == HALTED, member.output()
    assert f"{stage.topic} has no record at" in member.output()


async def begin_a_snapshot(kafka: str, topic: str, producer: AIOKafkaProducer) -> None:
    """Make a topic with a snapshot that has no end."""
    await topics.make(kafka, topic, 1, {})
    began = record(0, marker("began"), topic, snapshot="true", snapshot_id=SNAPSHOT)
    await producer.send_and_wait(topic, began.value, began.key, 0, headers=list(began.headers))
