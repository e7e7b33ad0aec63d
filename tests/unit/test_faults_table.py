"""The README's table of faults is complete and shows no violation."""

from tests.faults import table
from tests.faults.happenings import FAULTS, REPEATS

ZERO = ("wrong", "lost", "out of order", "wrong numbers")


def shown() -> list[dict[str, str]]:
    """Return the rows of the table by column."""
    found = table.SHOWN.search(table.README.read_text())
    assert found
    head, _, *rows = [
        [cell.strip() for cell in line.strip("|").split("|")] for line in found[0].splitlines()
    ]
    assert tuple(head) == table.HEAD
    return [dict(zip(head, row, strict=True)) for row in rows]


def test_the_table_has_a_row_for_each_fault() -> None:
    """There is one row for each fault, in the order of the run."""
    assert [row["fault"] for row in shown()] == list(FAULTS)


def test_the_table_shows_what_is_promised() -> None:
    """Nothing is wrong, lost or out of order; repeated are only events after a change of timeline."""
    for row in shown():
        assert {name: row[name] for name in ZERO} == dict.fromkeys(ZERO, "0"), row["fault"]
        assert row["twice"] == "0" or row["fault"] in REPEATS
