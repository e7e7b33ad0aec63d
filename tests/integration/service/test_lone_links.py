"""A lone link, which one statement writes: the same rows, events and replies as in a joint transaction."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import datetime, timedelta
from functools import partial
from random import Random
from typing import Any, NamedTuple
from uuid import UUID

import asyncpg
import pytest

from service.core.errors import Conflict, NotFound, Refusal
from service.core.events import EventMaker
from service.core.ids import EPOCH, IdSource, microseconds
from service.core.links import DocumentStates, LinksWrite
from service.core.values import (
    MAX_LINKS,
    AddLink,
    Caller,
    DocumentKey,
    EntityKey,
    LinkKey,
    LinkRow,
    Outcome,
)
from service.core.writes import Reply
from service.measures import Measures
from service.store.database import Database
from service.store.writing.execute import Executor
from service.store.writing.group import GroupWriter
from service.store.writing.transaction import Transactions
from service.supervision import Supervisor
from tests.support.service.api import new_key, seed
from tests.support.service.locks import waiting
from tests.support.topic.subscriber import check_outbox
from tests.support.waiting import until

DOCUMENTS = 20
TEXTS = (
    "",
    "%",
    "%%",
    "%1$s %s",
    '"\\',
    "\n\t\x01\x7f",
    "é😀\u2028",
    "</a>",
    "rôle",
    "\\u0000",
    "1",
)
ROWS = """
SELECT l.*, o.event_id, o.event_type, o.key, o.payload, o.traceparent, d.version, d.revision, d.updated_at
FROM document_links AS l
JOIN documents AS d ON d.workspace_id = l.workspace_id AND d.id = l.document_id
JOIN outbox AS o ON convert_from(o.payload, 'UTF8')::jsonb #>> '{data,link,id}' = l.id::text
WHERE l.document_id = $1 AND l.entity_id = $2
"""


class Made(NamedTuple):
    """A writer with what it has measured."""

    writer: GroupWriter
    measures: Measures

    @property
    def statements(self) -> int:
        """How many statements were whole transactions."""
        return sum(self.measures.steps.statement.counts)

    @property
    def commits(self) -> int:
        """How many transactions had a COMMIT of their own."""
        return sum(self.measures.steps.commit.counts)


@asynccontextmanager
async def writing(dsn: str, *, register_unknown: bool = False) -> AsyncIterator[Made]:
    """Run a writer."""
    async with Database(dsn, pool_size=5) as database:
        executor = Executor(IdSource(), database.measures, register_unknown=register_unknown)
        async with GroupWriter(Transactions(database), executor, Supervisor()) as writer:
            yield Made(writer, database.measures)


@pytest.fixture
async def workspace(database: str, connection: asyncpg.Connection) -> str:
    """Return a workspace in which there is something to link."""
    await new_key(database)
    await seed(connection, DOCUMENTS, DOCUMENTS)
    workspace: str = await connection.fetchval("SELECT id::text FROM workspaces")
    return workspace


class Asked:
    """A write of one link, which notes what it has decided last."""

    def __init__(
        self, workspace: str, document: str, entity: str, role: str | None = None, **caller: str
    ) -> None:
        self.key = LinkKey(DocumentKey(workspace, document), EntityKey(workspace, "deal", entity))
        self.caller = Caller(workspace, "key_1", **{"request_id": "req_1", **caller})
        self.outcome: Outcome | Refusal | None = None
        self.write = LinksWrite(
            caller=self.caller,
            cause="link",
            changes=[AddLink(self.key, role)],
            respond=self._respond,
        )

    def _respond(self, outcomes: list[Outcome | Refusal], documents: DocumentStates) -> Reply:
        (self.outcome,) = outcomes
        return Reply(201, b"{}", revision=documents[self.key.document].revision)

    @property
    def decided(self) -> Outcome:
        """The outcome from which the reply was made."""
        assert isinstance(self.outcome, Outcome)
        return self.outcome


def event_of(row: asyncpg.Record, asked: Asked) -> tuple[Any, ...]:
    """Return the event as a joint transaction would make it, with the id of the event in the row."""
    now, event_id = row["created_at"], UUID(str(row["event_id"]))
    ids = IdSource(words=[(event_id.int & (1 << 62) - 1) << 2])
    maker = EventMaker(asked.caller, "link", ids, now, microseconds(now))
    link = LinkRow(asked.key, UUID(str(row["id"])), row["role"], now)
    return tuple(maker.make("document.linked", link, None, row["version"]))


async def test_events_and_replies_are_those_of_a_joint_transaction(
    database: str, workspace: str, connection: asyncpg.Connection
) -> None:
    """The event is byte for byte the one that the code makes for the same time, version and ids."""
    random = Random(7)
    trailing_zeros = 0
    async with writing(database) as made:
        for number in range(DOCUMENTS * DOCUMENTS):
            role = "".join(random.choices(TEXTS, k=random.randrange(9)))
            caller = {"request_id": f"req_{number}"}
            if random.random() < 0.5:
                caller["traceparent"] = f"00-{number:032x}-{random.getrandbits(64):016x}-01"
                caller["tracestate"] = "a=100%25,b=%1$s"
            document, entity = f"doc_{number % 20 + 1}", f"deal_{number // 20 + 1}"
            asked = Asked(workspace, document, entity, random.choice((role, None)), **caller)
            reply = await made.writer.write(asked.write)
            (row,) = await connection.fetch(ROWS, document, entity)
            event = tuple(
                str(row[name]) if name == "event_id" else row[name]
                for name in ("event_id", "event_type", "key", "payload", "traceparent")
            )
            assert event == event_of(row, asked)
            assert reply.revision == row["revision"] == row["version"] + 1
            assert asked.decided == Outcome(
                "created",
                LinkRow(asked.key, UUID(str(row["id"])), row["role"], row["created_at"]),
            )
            assert row["updated_at"] == row["created_at"]
            assert row["id"] == IdSource(words=[(row["id"].int & (1 << 62) - 1) << 2]).uuid7(
                microseconds(row["created_at"])
            )
            trailing_zeros += row["created_at"].microsecond % 10 == 0
        assert made.statements == DOCUMENTS * DOCUMENTS
        assert made.commits == 0
    assert trailing_zeros > 0
    await check_outbox(connection)


async def test_ids_grow_with_versions(
    database: str, workspace: str, connection: asyncpg.Connection
) -> None:
    """Of one document, links and events are in the order of versions, whichever way each was written."""
    async with writing(database) as one, writing(database) as other:
        for number in range(1, 16):
            asked = [
                Asked(workspace, "doc_1", f"deal_{number}").write,
                Asked(workspace, f"doc_{number + 1}", "deal_1").write,
            ]
            writer = (one if number % 2 else other).writer
            await asyncio.gather(*map(writer.write, asked[: 1 + number % 3 // 2]))
        assert one.statements + other.statements > 0
        assert one.commits + other.commits > 0
    rows = await connection.fetch(
        "SELECT convert_from(payload, 'UTF8')::jsonb AS event FROM outbox "
        "WHERE key LIKE '%/doc_1' ORDER BY position"
    )
    events = [row["event"] for row in rows]
    assert len(events) == 15
    ids = await connection.fetch(
        "SELECT id FROM document_links WHERE document_id = 'doc_1' ORDER BY created_at"
    )
    assert [row["id"] for row in ids] == sorted(row["id"] for row in ids)
    await check_outbox(connection)


class Case(NamedTuple):
    """A write that is not of a new link: what is done before, and the outcome or the refusal."""

    before: str
    expected: str | type[Refusal]
    statements: int = 1
    """The number of statements that are whole transactions: 1 if the first answer is enough."""
    commits: int = 0


LINKED = (
    "INSERT INTO document_links (workspace_id, document_id, id, entity_type, entity_id, created_at, "
    "deleted_at, deleted_cause) SELECT id, 'doc_1', gen_random_uuid(), 'deal', 'deal_1', now(), {} "
    "FROM workspaces"
)
CASES = {
    "no document": Case("DELETE FROM documents WHERE id = 'doc_1'", NotFound),
    "deleted document": Case(
        "UPDATE documents SET deleted_at = now(), deletion_id = gen_random_uuid() WHERE id = 'doc_1'",
        NotFound,
    ),
    "no entity": Case("DELETE FROM entities WHERE id = 'deal_1'", NotFound),
    "deleted entity": Case("UPDATE entities SET deleted_at = now() WHERE id = 'deal_1'", NotFound),
    "active link": Case(LINKED.format("NULL, NULL"), "existing"),
    "removed link": Case(LINKED.format("now(), 'unlink'"), "restored", commits=1),
    "many events": Case(
        f"UPDATE documents SET version = {MAX_LINKS} WHERE id = 'doc_1'", "created", commits=1
    ),
    "almost as many": Case(
        f"UPDATE documents SET version = {MAX_LINKS - 1} WHERE id = 'doc_1'", "created"
    ),
    "too many links": Case(
        f"UPDATE documents SET version = {MAX_LINKS} WHERE id = 'doc_1'; "
        "INSERT INTO entities (workspace_id, type, id) "
        f"SELECT w.id, 'task', n FROM workspaces AS w, generate_series(1, {MAX_LINKS}) AS n; "
        "INSERT INTO document_links (workspace_id, document_id, id, entity_type, entity_id, created_at) "
        "SELECT workspace_id, 'doc_1', gen_random_uuid(), type, id, now() FROM entities "
        "WHERE type = 'task'",
        Conflict,
    ),
}


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
async def test_other_cases_are_decided_as_always(
    database: str, workspace: str, connection: asyncpg.Connection, case: Case
) -> None:
    """What the statement does not write is refused, unchanged, or written by a joint transaction."""
    await connection.execute(case.before)
    asked = Asked(workspace, "doc_1", "deal_1", "new")
    async with writing(database) as made:
        if isinstance(case.expected, str):
            await made.writer.write(asked.write)
            assert asked.decided.kind == case.expected
        else:
            with pytest.raises(case.expected):
                await made.writer.write(asked.write)
        assert (made.statements, made.commits) == (case.statements, case.commits)
    events = int(case.expected in {"created", "restored"})
    assert await connection.fetchval("SELECT count(*) FROM outbox") == events


async def test_an_unknown_entity_is_registered_by_its_own_transaction(
    database: str, workspace: str, connection: asyncpg.Connection
) -> None:
    """With the entity policy `any`, the statement leaves unknown and deleted entities to it."""
    await connection.execute("UPDATE entities SET deleted_at = now() WHERE id = 'deal_1'")
    async with writing(database, register_unknown=True) as made:
        for entity in ("deal_1", "deal_unknown"):
            asked = Asked(workspace, "doc_1", entity)
            await made.writer.write(asked.write)
            assert asked.decided.kind == "created"
    await check_outbox(connection)


@pytest.mark.parametrize(
    "statement",
    [
        "SELECT FROM documents WHERE id = 'doc_1' FOR NO KEY UPDATE",
        "SELECT FROM entities WHERE id = 'deal_1' FOR UPDATE",
    ],
    ids=["document", "entity"],
)
async def test_a_locked_row_is_waited_for(
    database: str, workspace: str, connection: asyncpg.Connection, statement: str
) -> None:
    """The statement does not wait for locks, and the write waits for them in another transaction."""
    holder = await asyncpg.connect(database)
    asked = Asked(workspace, "doc_1", "deal_1")
    async with writing(database) as made:
        async with holder.transaction():
            await holder.execute(statement)
            call = asyncio.create_task(made.writer.write(asked.write))
            await until(partial(waiting, connection, 1))
            assert made.measures.calls_retried["locked"] > 0
        await call
    await holder.close()
    assert asked.decided.kind == "created"
    await check_outbox(connection)


async def add_by_hand(
    connection: asyncpg.Connection, workspace: str, latest: timedelta
) -> asyncpg.Record:
    """Call the function with a time so much later than now."""
    now: datetime = await connection.fetchval("SELECT clock_timestamp()")
    ends = ("8000-000000000001", "8000-000000000002")
    row = await connection.fetchrow(
        "SELECT locked_at, is_written FROM add_link($1, 'doc_1', 'deal', 'deal_1', NULL, 9, $2, $3, $4, "
        "'{}', NULL)",
        workspace,
        now + latest,
        *ends,
    )
    assert row is not None
    return row


async def test_a_late_statement_writes_nothing(
    workspace: str, connection: asyncpg.Connection
) -> None:
    """A statement that takes its locks after `latest` returns the time, and writes nothing."""
    row = await add_by_hand(connection, workspace, timedelta(microseconds=-1))
    assert (row["locked_at"] is None, row["is_written"]) == (False, False)
    assert await connection.fetchval("SELECT count(*) FROM document_links") == 0
    row = await add_by_hand(connection, workspace, timedelta(minutes=1))
    assert row["is_written"]


async def test_a_clock_that_was_moved_is_read_again(database: str, workspace: str) -> None:
    """If the server's clock is not the one that is remembered, the second statement writes."""
    async with writing(database) as made:
        await made.writer.write(Asked(workspace, "doc_1", "deal_1").write)
        session = made.writer._connection  # noqa: SLF001 - no clock is moved for a test
        assert session is not None
        session.clock.set(EPOCH)
        asked = Asked(workspace, "doc_1", "deal_2")
        await made.writer.write(asked.write)
        assert asked.decided.kind == "created"
        assert (made.statements, made.commits) == (3, 0)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("statement_timeout", "5s"),
        ("default_transaction_isolation", "repeatable read"),
        ("default_transaction_isolation", "serializable"),
    ],
)
async def test_settings_of_another_session_are_not_relied_on(
    database: str, workspace: str, connection: asyncpg.Connection, name: str, value: str
) -> None:
    """With a setting that a pooler may bring in, the link is written by a transaction that overrides it."""
    with_setting = await asyncpg.connect(database, server_settings={name: value})
    row = await add_by_hand(with_setting, workspace, timedelta(minutes=1))
    assert (row["locked_at"], row["is_written"]) == (None, False)
    await with_setting.close()
    async with writing(database) as made:
        asked = Asked(workspace, "doc_2", "deal_1")
        await made.writer.write(asked.write)
        session = made.writer._connection  # noqa: SLF001 - only a pooler does it from outside
        assert session is not None
        await session.execute(f"SET {name} = '{value}'")
        for number in range(2, 6):
            asked = Asked(workspace, "doc_2", f"deal_{number}")
            await made.writer.write(asked.write)
            assert asked.decided.kind == "created"
        assert (made.statements, made.commits) == (2, 4)  # the session is asked once
    await check_outbox(connection)


async def test_a_link_is_durable_before_it_is_visible(database: str, workspace: str) -> None:
    """With synchronous_commit off by default, the statement waits for the flush of its WAL."""
    session = await asyncpg.connect(database, server_settings={"synchronous_commit": "off"})
    async with session.transaction():
        row = await add_by_hand(session, workspace, timedelta(minutes=1))
        assert row["is_written"]
        assert await session.fetchval("SHOW synchronous_commit") == "on"
    async with session.transaction():  # there is a link now, so the transaction has only locks
        assert not (await add_by_hand(session, workspace, timedelta(minutes=1)))["is_written"]
        assert await session.fetchval("SHOW synchronous_commit") == "off"
    await session.close()


async def test_after_two_lone_links_nothing_is_begun_ahead(
    database: str, workspace: str, connection: asyncpg.Connection
) -> None:
    """After a group, the second lone link in a row is the last one that shares no statement."""
    async with writing(database) as made:
        group = [Asked(workspace, f"doc_{number}", "deal_1").write for number in range(1, 5)]
        await asyncio.gather(*map(made.writer.write, group))
        assert (made.statements, made.commits) == (0, 1)
        for number in range(2, 8):
            await made.writer.write(Asked(workspace, "doc_1", f"deal_{number}").write)
        assert (made.statements, made.commits) == (4, 3)
    await check_outbox(connection)
