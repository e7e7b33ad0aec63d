"""Events that are next, repeated, missing or unreadable, and two members with one partition."""

import json
from uuid import UUID

import asyncpg
import pytest

from deploy.subscriber.table import HaltError
from tests.integration.subscriber.conftest import Reader
from tests.support.topic.made import TOPIC, event, marker, record


async def test_each_kind_of_event_is_applied(reader: Reader) -> None:
    """Links are added, changed, removed and restored, in one batch or several."""
    await reader.read(
        record(0, event(1)), record(1, event(2, link=2)), record(5, event(3, "unlinked"))
    )
    assert (await reader.links(), await reader.position()) == ({2}, 6)
    changed = event(5, "link_updated", link=2)
    changed["data"]["link"]["role"] = "other"
    await reader.read(record(6, event(4, "restored")), record(7, changed))
    assert await reader.links() == {1, 2}
    roles = await reader.db.fetch("SELECT role FROM links WHERE id = $1", UUID(int=2))
    assert [row[0] for row in roles] == ["other"]


async def test_duplicates_are_dropped(reader: Reader) -> None:
    """Events that come again change nothing, in the same batch or in a later one."""
    once, gone = event(1), event(2, "unlinked")
    await reader.read(record(0, once), record(1, once), record(2, gone))
    await reader.read(record(3, once), record(4, gone))
    assert (await reader.links(), await reader.position()) == (set(), 5)


@pytest.mark.parametrize("replay", [{}, {"replay": "true"}])
async def test_a_gap_halts(reader: Reader, replay: dict[str, str]) -> None:
    """The program names the record, has applied those before it, and meets it again after a restart."""
    missing = record(2, event(3, link=3), **replay)
    for _ in range(2):
        with pytest.raises(
            HaltError, match=r"offset 2, .*version 3 of the document after version 1"
        ):
            await reader.read(
                *[record(0, event(1)), record(1, event(1, document="other", link=2))][
                    await reader.position() :
                ],
                missing,
                record(3, event(1, document="third", link=4)),
            )
        assert (await reader.links(), await reader.position()) == ({1, 2}, 2)


async def test_a_first_event_that_is_not_the_first_version_halts(reader: Reader) -> None:
    """Who reads the topic from its beginning has seen the first event of each document."""
    with pytest.raises(HaltError, match="version 2 of the document after version 0"):
        await reader.read(record(0, event(2)))


async def test_unknown_types_are_skipped(reader: Reader) -> None:
    """An event of another type counts as a version of its document, if it has one, and changes no link."""
    other = event(2) | {
        "type": "document.renamed",
        "dataschema": "urn:document-links:document.renamed:1",
    }
    alien = other | {"type": "workspace.made", "data": None}
    await reader.read(
        record(0, event(1)), record(1, other), record(2, alien), record(3, event(3, link=3))
    )
    assert await reader.links() == {1, 3}


POISON = {
    "no JSON": b"\xff",
    "no object": b"[]",
    "no type": b"{}",
    "no data": json.dumps({"type": "document.linked", "partitionkey": "a/b"}).encode(),
    "another schema": json.dumps(event(2) | {"dataschema": "urn:document-links:document.linked:2"}).encode(),
    "another key": json.dumps(event(1, document="other")).encode(),
    "the end of no snapshot": json.dumps(marker("ended")).encode(),
    "a link without an id": json.dumps(event(2) | {"data": event(2)["data"] | {"link": {}}}).encode(),
    "a version that is a text": json.dumps(
        event(2) | {"data": event(2)["data"] | {"document_version": "2"}}
    ).encode(),
    "no version": json.dumps(event(2) | {"data": {"link": event(2)["data"]["link"]}}).encode(),
    "a version that is no number": json.dumps(
        event(2) | {"data": event(2)["data"] | {"document_version": float("nan")}}
    ).encode(),
    "a version below 1": json.dumps(
        event(2) | {"data": event(2)["data"] | {"document_version": 0}}
    ).encode(),
    "deep JSON": b"[" * 200_000,
    "a text that Postgres refuses": json.dumps(
        event(2) | {"data": event(2)["data"] | {"document_id": "a\0b"}}
    ).encode(),
}  # fmt: skip


@pytest.mark.parametrize("value", POISON.values(), ids=POISON)
async def test_a_poison_message_halts(reader: Reader, value: bytes) -> None:
    """Records before it are applied, it is named, and nothing after it is applied."""
    poison = record(4, event(2))._replace(value=value)
    batch = [record(3, event(1)), poison, record(5, event(2, link=5))]
    with pytest.raises(
        HaltError, match=f"{TOPIC} partition 0 offset 4, key b'{event(2)['partitionkey']}'"
    ):
        await reader.read(*batch)
    assert (await reader.links(), await reader.position()) == ({1}, 4)


async def test_a_record_without_a_key_halts(reader: Reader) -> None:
    """It is none of the worker's."""
    with pytest.raises(HaltError, match="offset 0, key None"):
        await reader.read(record(0, event(1))._replace(key=None))


async def test_a_partition_that_was_given_again_is_read_from_the_position(reader: Reader) -> None:
    """After a rebalance nothing is applied before the member has asked for the position."""
    await reader.read(record(0, event(1)))
    reader.table.given()
    assert not await reader.read(record(5, event(2, link=2)))
    assert (await reader.position(), await reader.links()) == (1, {1})


async def test_another_member_has_read_on(reader: Reader, empty_database: str) -> None:
    """A member that was paused during a rebalance applies nothing until it reads at the table's position."""
    batch = [record(offset, event(offset + 1, link=offset)) for offset in range(3)]
    other = Reader(await asyncpg.connect(empty_database))
    assert await other.position() == 0
    assert await other.read(*batch[:2])
    await other.db.close()
    assert not await reader.read(*batch)
    assert (await reader.links(), await reader.position()) == ({0, 1}, 2)
    assert await reader.read(batch[2])
    assert await reader.links() == {0, 1, 2}
