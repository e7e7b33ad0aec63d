"""Keys are hashed as the Java client hashes them; rows keep their order in batches."""

import asyncio

import pytest

from outbox_worker.kafka.records import PACKED_AT_ONCE, Packer, partition_of

# From org.apache.kafka.common.utils.UtilsTest (testMurmur2), turned into partitions of 1000.
JAVA = {
    b"21": -973932308,
    b"foobar": -790332482,
    b"a-little-bit-long-string": -985981536,
    b"a-little-bit-longer-string": -1486304829,
    b"lkjh234lh9fiuh90y23oiuhsafujhadof229phr9h19h89h8": -58897971,
    b"abc": 479470107,
}


class SmallBatch:
    """A record batch with room for two records."""

    def __init__(self) -> None:
        self.values: list[bytes | None] = []

    def append(self, *, value: bytes | None, **_: object) -> object | None:
        """Add a record if there is room."""
        if len(self.values) == 2:
            return None
        self.values.append(value)
        return object()

    def record_count(self) -> int:
        """Return the number of records."""
        return len(self.values)

    def size(self) -> int:
        """Return the number of bytes."""
        return sum(len(value or b"") for value in self.values)


@pytest.mark.parametrize(("key", "hashed"), JAVA.items())
def test_partition_is_the_java_clients(key: bytes, hashed: int) -> None:
    """A key gets the partition that a producer in Java chooses."""
    assert partition_of(key, 1_000) == (hashed & 0x7FFFFFFF) % 1_000


async def test_full_batch_is_followed_by_another_in_a_later_round() -> None:
    """Five rows of one key make three rounds of one batch each, in their order."""
    rows = [(n, "key", str(n).encode(), None) for n in range(5)]
    rounds = await Packer(4).pack(rows, SmallBatch, 0)
    (partition,) = rounds[0]
    assert [list(batches) for batches in rounds] == [[partition]] * 3
    values = [batch.values for batches in rounds for batch in batches.values()]  # type: ignore[attr-defined] # they are SmallBatches
    assert values == [[b"0", b"1"], [b"2", b"3"], [b"4"]]


async def test_a_large_page_leaves_the_loop_to_others() -> None:
    """Other tasks run while a page is packed, and its rows stay in order."""
    count = 2 * PACKED_AT_ONCE + 1
    rows = [(n, "key", str(n).encode(), None) for n in range(count)]
    packing = asyncio.ensure_future(Packer(4).pack(rows, SmallBatch, 0))
    turns = 0
    while not packing.done():
        turns += 1
        await asyncio.sleep(0)
    assert turns > 2  # once for each pause
    batches = [batch for batches in packing.result() for batch in batches.values()]
    values = [value for batch in batches for value in batch.values]  # type: ignore[attr-defined] # as above
    assert values == [str(n).encode() for n in range(count)]


async def test_no_rows_need_no_round() -> None:
    """An empty page makes no batch."""
    assert await Packer(4).pack([], SmallBatch, 0) == []
