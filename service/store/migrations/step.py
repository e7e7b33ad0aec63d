"""A step: one file, with what its first lines declare."""

import re
from pathlib import Path
from typing import Final, Literal, NamedTuple, cast

DIRECTORY: Final = Path(__file__).parent

NAME: Final = re.compile(r"(\d{4})_\w+\.sql")
OLDEST: Final = re.compile(r"^-- oldest programs: (\d+)$", re.MULTILINE)
LOCK: Final = re.compile(r"^-- lock: (\w+), ([A-Z ]+), (momentary|scan)$", re.MULTILINE)
OUTSIDE: Final = re.compile(r"^-- outside a transaction$", re.MULTILINE)
INDEX: Final = re.compile(r"CREATE (?:UNIQUE )?INDEX CONCURRENTLY IF NOT EXISTS (\w+)")


class Lock(NamedTuple):
    """A lock on a table that existed before the step, and whether it is held while the table is read."""

    table: str
    mode: str
    duration: Literal["momentary", "scan"]


class Step(NamedTuple):
    """What brings a database from the schema before it to the version."""

    version: int
    name: str
    title: str
    oldest_programs: int
    locks: tuple[Lock, ...]
    in_transaction: bool
    sql: str

    @property
    def new_index(self) -> str | None:
        """The index that the step builds concurrently."""
        found = INDEX.search(self.sql)
        return found[1] if found else None


def read_steps(directory: Path = DIRECTORY) -> list[Step]:
    """Return the steps in the directory, in order.

    Raises:
        ValueError: a file has no number of its own or does not declare the oldest programs.
    """
    return [_read(path) for path in sorted(directory.glob("*.sql"))]


def _read(path: Path) -> Step:
    sql = path.read_text()
    number, oldest = NAME.fullmatch(path.name), OLDEST.search(sql)
    if number is None or oldest is None:
        raise ValueError(f"{path.name} is no step: see the docstring of {__package__}")
    return Step(
        int(number[1]),
        path.name,
        sql.partition("\n")[0].removeprefix("-- "),
        int(oldest[1]),
        tuple(Lock(*cast("tuple[str, str, Literal['scan']]", each)) for each in LOCK.findall(sql)),
        OUTSIDE.search(sql) is None,
        sql,
    )
