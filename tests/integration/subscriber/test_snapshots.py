"""Snapshots and replays, among the events of the live topic and in topics of their own."""

from typing import Any

import asyncpg
import pytest

from deploy.subscriber.table import HaltError
from tests.integration.subscriber.conftest import Reader
from tests.support.topic.made import SNAPSHOT, TOPIC, Made, event, marker, record

ANOTHER = "1d5a3e9c-4c55-4f0e-9a53-0c8c1e1f4a0b"
REPLAYED = {"replay": "true"}


def snapshot(
    first: int, *links: dict[str, Any], topic: str = TOPIC, named: str = SNAPSHOT
) -> list[Made]:
    """Return a snapshot's records from an offset on: the markers and events between them."""
    made = [marker("began", 0, named), *links, marker("ended", len(links), named)]
    headers = {"snapshot": "true", "snapshot_id": named}
    return [record(offset, each, topic, **headers) for offset, each in enumerate(made, start=first)]


@pytest.fixture
async def filled(reader: Reader) -> Reader:
    """Return a member that has read three events: two links of `doc_1`, and one of `gone`."""
    made = [event(1), event(2, link=2), event(1, link=30, document="gone")]
    await reader.read(*[record(offset, each) for offset, each in enumerate(made)])
    return reader


async def test_a_snapshot_is_applied_whole(filled: Reader, empty_database: str) -> None:
    """Nothing changes before its end, also for a member that is started meanwhile; then all is replaced."""
    began, *linked, ended = snapshot(3, event(8, link=7), event(8, link=8))
    await filled.read(began, linked[0])
    assert await filled.links() == {1, 2, 30}
    other = Reader(await asyncpg.connect(empty_database))
    await other.position()
    await other.read(linked[1])
    assert (await other.links(), await other.position()) == ({1, 2, 30}, 6)
    await other.read(ended)
    assert (await other.links(), await other.position()) == ({7, 8}, 7)
    assert await other.db.fetchval("SELECT count(*) FROM held") == 0
    await other.db.close()


async def test_live_events_wait_for_the_end_of_a_snapshot(filled: Reader) -> None:
    """They are then applied in order, if their version is above that of the snapshot."""
    began, linked, ended = snapshot(3, event(8, link=7))
    live = [record(6, event(8, link=7)), record(7, event(9, link=9))]
    await filled.read(began, live[0], linked, live[1])
    assert await filled.links() == {1, 2, 30}
    await filled.read(ended._replace(offset=8), record(9, event(10, "unlinked", link=7)))
    assert await filled.links() == {9}


async def test_replays_during_a_snapshot_are_dropped(filled: Reader) -> None:
    """They are of events from before the snapshot, which need not know the versions of their documents."""
    began, linked, ended = snapshot(3, event(8, link=7))
    replayed = record(5, event(4, link=4, document="gone"), **REPLAYED)
    await filled.read(began, replayed, linked, ended)
    assert await filled.links() == {7}


async def test_a_snapshot_without_an_end_is_forgotten(filled: Reader) -> None:
    """The next one takes its place; a late record and the end of the first are ignored."""
    first = snapshot(3, event(8, link=7))
    await filled.read(*first[:2])
    began, linked, ended = snapshot(5, event(9, link=8), named=ANOTHER)
    await filled.read(began, first[1], first[2], linked)
    assert await filled.links() == {1, 2, 30}
    await filled.read(ended)
    assert await filled.links() == {8}


async def test_an_incomplete_snapshot_halts(filled: Reader) -> None:
    """If a record between the markers is missing, the table stays as it was."""
    began, _, linked, ended = snapshot(3, event(8, link=7), event(8, link=8))
    with pytest.raises(HaltError, match="the snapshot has 1 links here, and its end says 2"):
        await filled.read(began, linked, ended)
    assert await filled.links() == {1, 2, 30}


async def test_a_document_without_links_has_no_version_after_a_snapshot(filled: Reader) -> None:
    """Its next event is applied, whatever the version; replayed ones before it are not."""
    await filled.read(*snapshot(3, event(8, link=7)))
    replayed = [event(4, link=4, document="gone"), event(5, link=5, document="gone")]
    await filled.read(*[record(6 + n, each, **REPLAYED) for n, each in enumerate(replayed)])
    assert await filled.links() == {7}
    await filled.read(record(8, event(6, link=6, document="gone")))
    assert await filled.links() == {6, 7}
    with pytest.raises(HaltError, match="version 8 of the document after version 6"):
        await filled.read(record(9, event(8, link=9, document="gone")))


async def test_a_snapshot_in_a_topic_of_its_own(filled: Reader) -> None:
    """The member that reads the live topic reads on at the offset that the snapshot names."""
    await filled.read(*snapshot(0, event(8, link=7), topic=f"{TOPIC}.snapshot"))
    assert await filled.links() == {7}
    assert not await filled.read(record(3, event(9, link=8)))
    assert await filled.position() == 17
    assert await filled.read(record(17, event(8, link=7)), record(18, event(9, link=9)))
    assert await filled.links() == {7, 9}


async def test_replays_in_a_topic_of_their_own(filled: Reader) -> None:
    """They close a gap. Those that are known or do not follow change nothing; the position stays."""
    with pytest.raises(HaltError, match="version 4 of the document after version 2"):
        await filled.read(record(3, event(4, link=4)))
    numbers = [(1, 1), (2, 2), (3, 3), (6, 6)]
    again = [event(version, link=link) for version, link in numbers]
    await filled.read(
        *[record(n, each, f"{TOPIC}.replay", **REPLAYED) for n, each in enumerate(again)]
    )
    assert (await filled.links(), await filled.position()) == ({1, 2, 3, 30}, 3)
    await filled.read(record(3, event(4, link=4)))
    assert await filled.links() == {1, 2, 3, 4, 30}
