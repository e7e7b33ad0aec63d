"""The cost of each operation, compared with the committed counts."""

import os
from pathlib import Path

import pytest

from tests.counts.measure import committed, differences, measure
from tests.support.parts import shared

EXTRA = os.environ.get(shared.EXTRA_BINDIR)
POSTGRES = {"found": None, **({"extra": Path(EXTRA)} if EXTRA else {})}


@pytest.mark.parametrize("bindir", POSTGRES.values(), ids=POSTGRES)
async def test_no_count_has_changed(kafka: str, bindir: Path | None) -> None:
    """Round trips, statements, WAL bytes and dead tuples of each operation are those of counts.json."""
    changed = differences(committed(), await measure(kafka, bindir))
    assert not changed, "\n".join([
        "the counts of tests/counts/counts.json are no longer true:", *changed,
        "a rise has to be mended or justified; after that, or a fall: `make counts`, and commit the file",
    ])  # fmt: skip
