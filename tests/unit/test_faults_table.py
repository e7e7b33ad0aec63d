"""The README's table of faults is that of a whole run of the faults that there are."""

from tests.faults import table
from tests.faults.happenings import FAULTS, REPEATS

ZERO = ("wrong", "lost", "out of order", "wrong numbers")


def shown() -> list[dict[str, str]]:
    """Return the rows, by the names of their columns."""
    found = table.SHOWN.search(table.README.read_text())
    assert found
    head, _, *rows = [
        [cell.strip() for cell in line.strip("|").split("|")] for line in found[0].splitlines()
    ]
    assert tuple(head) == table.HEAD
    return [dict(zip(head, row, strict=True)) for row in rows]


def test_the_table_has_a_row_for_each_fault() -> None:
    """One row for each, in the order of the run."""
    assert [row["fault"] for row in shown()] == list(FAULTS)


def test_the_table_shows_what_is_promised() -> None:
    """Nothing wrong, lost or out of order; twice only what the database's new timeline brings."""
    for row in shown():
        assert {name: row[name] for name in ZERO} == dict.fromkeys(ZERO, "0"), row["fault"]
        assert row["twice"] == "0" or row["fault"] in REPEATS
