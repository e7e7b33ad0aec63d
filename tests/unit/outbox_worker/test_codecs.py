"""Batches that aiokafka compresses at the worker's levels: what they hold, and that the levels are used."""

import pytest
from aiokafka import codec as own
from aiokafka.record.default_records import DefaultRecordBatch, DefaultRecordBatchBuilder

from outbox_worker.kafka import codecs
from outbox_worker.kafka.records import CONTENT_TYPE

HEADER_BYTES = 61
CODECS = {
    "gzip": (DefaultRecordBatch.CODEC_GZIP, codecs._gzip, own.gzip_decode),  # noqa: SLF001 - see the module
    "lz4": (DefaultRecordBatch.CODEC_LZ4, codecs._lz4, own.lz4_decode),  # noqa: SLF001 - as above
    "zstd": (DefaultRecordBatch.CODEC_ZSTD, codecs._zstd, own.zstd_decode),  # noqa: SLF001 - as above
}


def batch(codec: int, records: list[tuple[bytes, bytes]]) -> bytes:
    """Return a transactional batch, as aiokafka sends it."""
    builder = DefaultRecordBatchBuilder(2, codec, 1, 7, 3, 11, 1 << 20)
    for offset, (key, value) in enumerate(records):
        assert builder.append(offset, 1_700_000_000_000, key, value, [CONTENT_TYPE]) is not None
    return bytes(builder.build())


@pytest.mark.parametrize("name", CODECS)
@pytest.mark.parametrize("count", [1, 2, 400])
def test_a_compressed_batch_holds_the_records_of_a_plain_one(name: str, count: int) -> None:
    """The records are, byte for byte, those of a plain batch, compressed at the worker's level."""
    codec, encode, decode = CODECS[name]
    records = [
        (f"key/{n % 7}".encode(), b'{"n":%d,"pad":"%s"}' % (n, b"x" * 300)) for n in range(count)
    ]
    plain, compressed = batch(0, records), batch(codec, records)
    assert compressed[HEADER_BYTES:] == encode(plain[HEADER_BYTES:])
    assert decode(compressed[HEADER_BYTES:]) == plain[HEADER_BYTES:]
    read = DefaultRecordBatch(compressed)
    assert (read.compression_type, read.is_transactional, read.validate_crc()) == (
        codec,
        True,
        True,
    )
    assert [(each.key, each.value) for each in read] == records
