"""The window: each committed row once, in order for each key, whatever transactions do."""

import itertools
import random
from collections.abc import AsyncIterator, Iterator

import asyncpg
import msgspec
import pytest

from outbox_worker.postgres.cursor import BEGINNING, Cursor, Snapshot
from outbox_worker.postgres.window import FOLLOWING, NEWEST, PAGE, STARTS, Window
from tests.support.relay import outbox
from tests.support.seeds import seeds
from tests.support.waiting import TIMEOUT_S

KEYS = 5
WRITERS = 6
STEPS = 600
WRITTEN_AT = """
SELECT position, date_part('epoch', created_at) AS written_at
FROM outbox
ORDER BY position
"""


@pytest.fixture
async def window(database: str) -> AsyncIterator[Window]:
    """Yield a window with pages of ten rows."""
    window = await Window.open(database, page_events=10)
    yield window
    await window.close()


async def drain(window: Window, cursor: Cursor) -> tuple[list[str], Cursor]:
    """Return all rows after the cursor, and the cursor after them."""
    values: list[str] = []
    while True:
        page = await window.read(cursor)
        values += [row["payload"].decode() for row in page.rows]
        if not page.rows and not page.in_backlog and page.cursor == cursor:
            return values, cursor
        cursor = page.cursor


async def test_each_row_comes_once_in_order(window: Window, connection: asyncpg.Connection) -> None:
    """A few rows come in one page, many in several pages, and none comes twice."""
    await outbox.insert_events(connection, 7)
    values, cursor = await drain(window, BEGINNING)
    assert values == [str(n) for n in range(1, 8)]
    await outbox.insert_events(connection, 100)
    values, cursor = await drain(window, cursor)
    assert values == [str(n) for n in range(1, 101)]
    assert await drain(window, cursor) == ([], cursor)


async def test_window_without_rows_moves_nothing(
    window: Window, connection: asyncpg.Connection
) -> None:
    """Transactions that write no event do not move the cursor."""
    await outbox.insert_events(connection, 3)
    _, cursor = await drain(window, BEGINNING)
    for _ in range(5):
        await connection.execute("SELECT pg_current_xact_id()")
    assert (await window.read(cursor)).cursor == cursor


async def test_pages_tell_when_their_rows_were_written(
    window: Window, connection: asyncpg.Connection
) -> None:
    """A page that holds all rows has a time for each, one of a backlog the times of one row in 32."""
    await outbox.insert_events(connection, 7)
    page = await window.read(BEGINNING)
    rows = await connection.fetch(WRITTEN_AT)
    assert list(page.written_at) == [row["written_at"] for row in rows]
    assert 0 <= window.server_time() - page.written_at[-1] < TIMEOUT_S
    for _ in range(60):
        await outbox.insert_event(connection, "key/0", "later")
    page = await window.read(page.cursor)
    written_at = {row["position"]: row["written_at"] for row in await connection.fetch(WRITTEN_AT)}
    expected = written_at[page.rows[0]["position"]]
    while page.in_backlog:
        positions = [row["position"] for row in page.rows]
        expected = next((written_at[each] for each in positions if each % 32 == 0), expected)
        assert list(page.written_at) == [expected]
        page = await window.read(page.cursor)
    assert expected == written_at[64]


async def test_cursor_never_names_a_transaction_that_did_not_commit_a_row(
    window: Window, connection: asyncpg.Connection
) -> None:
    """The new s0 ends after the last row's xid, because Postgres may hand out the xids above again."""
    for rows in (3, 100):
        await outbox.insert_events(connection, rows)
        for _ in range(5):
            await connection.execute("SELECT pg_current_xact_id()")
        _, cursor = await drain(window, BEGINNING)
        last = await connection.fetchval("SELECT max(xid) FROM outbox")
        assert cursor.s0.xmax == last + 1


async def test_late_row_does_not_move_the_cursor_back(
    window: Window, database: str, connection: asyncpg.Connection
) -> None:
    """A late row comes alone, and no published row comes again."""
    late = await asyncpg.connect(database)
    transaction = late.transaction()
    await transaction.start()
    await outbox.insert_event(late, "late", "late")
    await outbox.insert_events(connection, 25)
    values, cursor = await drain(window, BEGINNING)
    assert values == [str(n) for n in range(1, 26)]
    await transaction.commit()
    values, cursor = await drain(window, cursor)
    assert values == ["late"]
    assert await drain(window, cursor) == ([], cursor)
    await late.close()


async def test_window_does_not_grow_while_it_is_read(
    window: Window, connection: asyncpg.Connection
) -> None:
    """Rows that are committed while a backlog is read belong to the next window."""
    await outbox.insert_events(connection, 35)
    page = await window.read(BEGINNING)
    assert page.in_backlog
    await outbox.insert_event(connection, "key/0", "later")
    values, _ = await drain(window, page.cursor)
    assert values == [*map(str, range(11, 36)), "later"]


@pytest.mark.parametrize("rows", [0, 5_000])
async def test_plans_use_indexes_only(
    database: str, connection: asyncpg.Connection, rows: int
) -> None:
    """No statement uses a sequential or a bitmap scan, on empty and on full tables."""
    await outbox.insert_events(connection, rows)
    window = await Window.open(database, page_events=10)
    statements: list[tuple[str, list[str]]] = [
        (FOLLOWING, ["'{5}'", "'7'", "11"]),
        (NEWEST, ["'7'"]),
        (STARTS, ["'{5}'", "'7'", "'9999999'"]),
        (PAGE, ["'{5}'", "'7'", "'9:99999999:'", "0", "0", "10"]),
    ]
    session = window._session._connection  # noqa: SLF001 - the session's planner is what is under test
    for number, (statement, arguments) in enumerate(statements):
        await session.execute(f"PREPARE s{number} AS {statement}")
        plan = await session.fetch(f"EXPLAIN EXECUTE s{number}({', '.join(arguments)})")
        text = "\n".join(row[0] for row in plan)
        assert "Seq Scan" not in text, text
        assert "Bitmap" not in text, text
        assert "Index" in text
    await window.close()


class Writer:
    """A session that writes at random and remembers what it has committed."""

    def __init__(self, connection: asyncpg.Connection, name: str, numbers: Iterator[int]) -> None:
        self.connection = connection
        self.name = name
        self.numbers = numbers
        self.pending: list[tuple[str, str]] | None = None
        self.savepoints: list[int] = []
        self.prepared: list[tuple[str, list[tuple[str, str]]]] = []
        self.committed: list[tuple[str, str]] = []

    async def step(self, choice: random.Random) -> None:
        """Do one random step."""
        if self.pending is None:
            await choice.choice([self.begin, self.begin, self.finish_prepared])(choice)
            return
        await choice.choice(
            [self.insert, self.insert, self.insert, self.savepoint, self.roll_back_to,
             self.commit, self.commit, self.roll_back, self.prepare, self.take_xid]
        )(choice)  # fmt: skip

    async def begin(self, _: random.Random) -> None:
        """Open a transaction."""
        await self.connection.execute("BEGIN")
        self.pending, self.savepoints = [], []

    async def take_xid(self, _: random.Random) -> None:
        """Take an xid before any position."""
        await self.connection.execute("SELECT pg_current_xact_id()")

    async def insert(self, choice: random.Random) -> None:
        """Insert while the key's lock is held, as writers do with the document's lock."""
        key = f"key/{choice.randrange(KEYS)}"
        lock = "SELECT pg_try_advisory_xact_lock(hashtext($1))"
        if not await self.connection.fetchval(lock, key):
            return
        value = str(next(self.numbers))
        await outbox.insert_event(self.connection, key, value)
        assert self.pending is not None
        self.pending.append((key, value))

    async def savepoint(self, _: random.Random) -> None:
        """Set a savepoint."""
        assert self.pending is not None
        await self.connection.execute(f"SAVEPOINT s{len(self.savepoints)}")
        self.savepoints.append(len(self.pending))

    async def roll_back_to(self, choice: random.Random) -> None:
        """Roll back to a savepoint."""
        if not self.savepoints:
            return
        assert self.pending is not None
        number = choice.randrange(len(self.savepoints))
        await self.connection.execute(f"ROLLBACK TO SAVEPOINT s{number}")
        del self.pending[self.savepoints[number] :]
        del self.savepoints[number + 1 :]

    async def commit(self, _: random.Random) -> None:
        """Commit: from now on the rows must be published."""
        await self.connection.execute("COMMIT")
        self.committed += self.pending or []
        self.pending = None

    async def roll_back(self, _: random.Random) -> None:
        """Roll back the transaction."""
        await self.connection.execute("ROLLBACK")
        self.pending = None

    async def prepare(self, _: random.Random) -> None:
        """Prepare the transaction; any writer may end it later."""
        name = f"{self.name}_{next(self.numbers)}"
        await self.connection.execute(f"PREPARE TRANSACTION '{name}'")
        self.prepared.append((name, self.pending or []))
        self.pending = None

    async def finish_prepared(self, choice: random.Random) -> None:
        """Commit or roll back a prepared transaction."""
        if not self.prepared:
            return
        name, rows = self.prepared.pop(choice.randrange(len(self.prepared)))
        if choice.random() < 0.7:
            await self.connection.execute(f"COMMIT PREPARED '{name}'")
            self.committed += rows
        else:
            await self.connection.execute(f"ROLLBACK PREPARED '{name}'")

    async def finish(self, choice: random.Random) -> None:
        """End all open transactions."""
        if self.pending is not None:
            await self.commit(choice)
        while self.prepared:
            await self.finish_prepared(choice)
        await self.connection.close()


def reread(cursor: Cursor) -> Cursor:
    """Return the cursor after it was written to JSON and parsed."""
    s1 = None if cursor.s1 is None else Snapshot.parse(str(cursor.s1))
    after = msgspec.json.decode(msgspec.json.encode(cursor.after), type=tuple[int, int])
    return Cursor(Snapshot.parse(str(cursor.s0)), s1, after)


@pytest.mark.parametrize("seed", seeds(range(12)))
async def test_every_committed_row_comes_once_and_in_order(database: str, seed: int) -> None:
    """Each committed row comes once and in order: savepoints, rollbacks, two-phase commits, early xids."""
    choice = random.Random(seed)
    numbers = itertools.count()
    writers = [
        Writer(await asyncpg.connect(database), f"{database[-20:]}_{n}", numbers)
        for n in range(WRITERS)
    ]
    window = await Window.open(database, page_events=choice.choice([1, 2, 3, 20]))
    seen: list[tuple[str, str]] = []
    cursor = BEGINNING

    async def read() -> None:
        nonlocal cursor
        page = await window.read(cursor)
        seen.extend((row["key"], row["payload"].decode()) for row in page.rows)
        cursor = reread(page.cursor)

    for _ in range(STEPS):
        await choice.choice(writers).step(choice)
        if choice.random() < 0.5:
            await read()
    for writer in writers:
        await writer.finish(choice)
    before = None
    while before != cursor:
        before = cursor
        await read()
    await window.close()
    assert sorted(seen) == sorted(row for writer in writers for row in writer.committed)
    for key in {key for key, _ in seen}:
        values = [int(value) for each, value in seen if each == key]
        assert values == sorted(values)
