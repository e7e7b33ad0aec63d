"""Group commit: requests share a transaction, and an error or a lock of one does not affect the others."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from contextvars import Context
from functools import partial

import asyncpg
import pytest

from service.core import values
from service.core.errors import NotFound, Refusal, Unavailable
from service.core.ids import IdSource
from service.core.links import DocumentStates, LinksWrite
from service.core.writes import Idempotency, Reply
from service.store.database import Database
from service.store.writing.execute import Executor
from service.store.writing.group import GroupWriter
from service.store.writing.transaction import Transactions
from service.supervision import Supervisor
from tests.support.service.api import Api, new_key, seed
from tests.support.service.locks import locked, waiting
from tests.support.topic.subscriber import check_outbox
from tests.support.waiting import until

TRANSACTIONS = "SELECT count(DISTINCT xid) FROM outbox"


@pytest.fixture
async def writer(database: str) -> AsyncIterator[GroupWriter]:
    """Yield a writer."""
    async with (
        Database(database, pool_size=5) as pool,
        GroupWriter(
            Transactions(pool),
            Executor(IdSource(), pool.measures, register_unknown=False),
            Supervisor(),
        ) as writer,
    ):
        yield writer


@pytest.fixture
async def workspace(database: str, connection: asyncpg.Connection) -> str:
    """Return a workspace in which there is something to link."""
    await new_key(database)
    await seed(connection, 20, 20)
    workspace: str = await connection.fetchval("SELECT id::text FROM workspaces")
    return workspace


def answer(
    outcomes: list[values.Outcome | Refusal], _: DocumentStates, body: bytes = b"{}"
) -> Reply:
    """Return the kind of the first outcome as the reply."""
    assert isinstance(outcomes[0], values.Outcome)
    return Reply(201 if outcomes[0].kind == "created" else 200, body)


def request(
    workspace: str, document: str, entity: str, *, role: str | None = None, key: bytes | None = None
) -> LinksWrite:
    """Return a request for one link."""
    link = values.LinkKey(
        values.DocumentKey(workspace, document), values.EntityKey(workspace, "deal", entity)
    )
    return LinksWrite(
        caller=values.Caller(workspace, "key_1", f"req_{document}"),
        cause="link",
        changes=[values.AddLink(link, role)],
        respond=answer,
        idempotency=None if key is None else Idempotency(key * 32, b"f" * 32),
    )


@asynccontextmanager
async def links_locked(database: str) -> AsyncIterator[asyncpg.Connection]:
    """Let no transaction write a link until the yielded session rolls back."""
    connection = await asyncpg.connect(database)
    await connection.execute("BEGIN; LOCK TABLE document_links IN SHARE MODE")
    yield connection
    await connection.close()


async def test_requests_that_arrive_together_share_a_transaction(
    writer: GroupWriter, workspace: str, connection: asyncpg.Connection
) -> None:
    """Twenty concurrent requests are one transaction, and each gets its answer."""
    asked = [request(workspace, f"doc_{number}", "deal_1") for number in range(1, 21)]
    replies = await asyncio.gather(*(writer.write(each) for each in asked))
    assert [reply.status for reply in replies] == [201] * 20
    assert await connection.fetchval(TRANSACTIONS) == 1
    await check_outbox(connection)


async def test_requests_that_arrive_meanwhile_share_the_next(
    writer: GroupWriter, workspace: str, database: str, connection: asyncpg.Connection
) -> None:
    """Requests that arrive while a transaction is in flight share the next one."""
    async with links_locked(database) as blocker:
        first = asyncio.create_task(writer.write(request(workspace, "doc_1", "deal_1")))
        await until(partial(waiting, connection, 1))
        others = [
            asyncio.create_task(writer.write(request(workspace, "doc_1", f"deal_{number}")))
            for number in range(2, 21)
        ]
        await blocker.execute("ROLLBACK")
    await asyncio.gather(first, *others)
    assert await connection.fetchval(TRANSACTIONS) == 2


async def test_a_lone_request_is_not_delayed(
    writer: GroupWriter, workspace: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No timer has to expire before a single request is answered."""
    loop = asyncio.get_running_loop()
    call_at = loop.call_at
    ran: list[object] = []

    def run(callback: Callable[..., object], *args: object) -> None:
        ran.append(callback)
        callback(*args)

    def watched(
        when: float,
        callback: Callable[..., object],
        *args: object,
        context: Context | None = None,
    ) -> asyncio.TimerHandle:
        return call_at(when, run, callback, *args, context=context)

    monkeypatch.setattr(loop, "call_at", watched)
    await writer.write(request(workspace, "doc_1", "deal_1"))
    assert ran == []


async def test_a_durable_answer_does_not_wait_for_the_next_transaction(
    writer: GroupWriter, workspace: str, database: str, connection: asyncpg.Connection
) -> None:
    """The caller of a committed link is answered although the next transaction hangs."""
    after = await asyncpg.connect(database)
    async with links_locked(database) as before:
        first = asyncio.create_task(writer.write(request(workspace, "doc_1", "deal_1")))
        await until(partial(waiting, connection, 1))  # it has read and cannot write
        second = asyncio.create_task(writer.write(request(workspace, "doc_2", "deal_2")))
        locked = asyncio.create_task(after.execute("BEGIN; LOCK TABLE entities IN EXCLUSIVE MODE"))
        await until(partial(waiting, connection, 2))
        await before.execute("ROLLBACK")
    await locked
    assert (await first).status == 201
    assert not second.done()
    await after.execute("ROLLBACK")
    assert (await second).status == 201
    await after.close()


async def test_a_locked_document_delays_no_other_request(
    api: Api, database: str, connection: asyncpg.Connection
) -> None:
    """Only the request for a document that another session has locked waits."""
    async with locked(database, "doc_1"):
        held_up = asyncio.create_task(api.add("doc_1", "ship_1"))
        passing = [api.add(f"doc_{number}", "ship_1") for number in range(2, 21)]
        assert [reply.status_code for reply in await asyncio.gather(*passing)] == [201] * 19
        await until(partial(waiting, connection))
        assert not held_up.done()
        assert (await api.add("doc_2", "ship_2")).status_code == 201
    assert (await held_up).status_code == 201


async def test_a_lock_that_is_held_too_long_is_503(
    api: Api, database: str, connection: asyncpg.Connection
) -> None:
    """A request that waits for a lock for 2 s is 503, and nothing is written."""
    async with locked(database, "doc_1"):
        refused = await api.add("doc_1", "ship_1")
    assert (refused.status_code, refused.json()["code"]) == (503, "unavailable")
    assert refused.headers["retry-after"] == "1"
    assert await connection.fetchval("SELECT count(*) FROM document_links") == 0
    assert (await api.add("doc_1", "ship_1")).status_code == 201


async def test_an_error_of_one_request_affects_no_other(
    writer: GroupWriter, workspace: str, connection: asyncpg.Connection
) -> None:
    """A database error of one request leaves the others of its group written."""
    bad = request(workspace, "doc_2", "deal_2", role="x" * 65)  # document_links_role_check
    good = [request(workspace, f"doc_{number}", "deal_1") for number in range(1, 11)]
    asked = [*good[:5], bad, *good[5:]]
    answers = await asyncio.gather(*(writer.write(each) for each in asked), return_exceptions=True)
    assert isinstance(answers.pop(5), asyncpg.CheckViolationError)
    assert [each.status for each in answers if isinstance(each, Reply)] == [201] * 10
    assert await connection.fetchval("SELECT count(*) FROM document_links") == 10
    await check_outbox(connection)


async def test_a_group_that_fails_is_logged_with_its_members(
    writer: GroupWriter, workspace: str, caplog: pytest.LogCaptureFixture
) -> None:
    """The log line of a failed group has the id of each request."""
    asked = [request(workspace, f"doc_{number}", "deal_1") for number in range(1, 4)]
    asked.append(request(workspace, "doc_4", "deal_1", role="x" * 65))
    await asyncio.gather(*(writer.write(each) for each in asked), return_exceptions=True)
    (line,) = [vars(each) for each in caplog.records if each.message == "write.group_failed"]
    assert line["request_ids"] == ["req_doc_1", "req_doc_2", "req_doc_3", "req_doc_4"]
    assert line["members"] == 4


async def test_a_refusal_of_one_request_affects_no_other(
    writer: GroupWriter, workspace: str, connection: asyncpg.Connection
) -> None:
    """A request for a missing entity is refused, and the others of its transaction are written."""
    asked = [request(workspace, "doc_1", entity) for entity in ("deal_1", "deal_none", "deal_2")]
    one, none, two = await asyncio.gather(
        *(writer.write(each) for each in asked), return_exceptions=True
    )
    assert isinstance(none, NotFound)
    assert isinstance(one, Reply)
    assert isinstance(two, Reply)
    assert await connection.fetchval(TRANSACTIONS) == 1


async def test_two_requests_with_one_key_are_one_write(writer: GroupWriter, workspace: str) -> None:
    """Of two concurrent requests with one Idempotency-Key the second replays the first one's answer."""
    asked = [request(workspace, "doc_1", "deal_1", key=b"k") for _ in range(2)]
    first, second = await asyncio.gather(*(writer.write(each) for each in asked))
    assert (first.status, first.replayed) == (201, False)
    assert (second.status, second.replayed) == (201, True)


async def test_a_large_request_has_its_own_transaction(
    writer: GroupWriter, workspace: str, connection: asyncpg.Connection
) -> None:
    """A request with more than a hundred changes shares its transaction with no other."""
    keys = [
        values.LinkKey(
            values.DocumentKey(workspace, f"doc_{d}"),
            values.EntityKey(workspace, "deal", f"deal_{e}"),
        )
        for d in range(1, 21)
        for e in range(2, 21)
    ]
    large = LinksWrite(
        caller=values.Caller(workspace, "key_1", "req_1"),
        cause="batch",
        changes=[values.AddLink(key) for key in keys],
        respond=answer,
    )
    small = request(workspace, "doc_1", "deal_1")
    await asyncio.gather(writer.write(large), writer.write(small))
    sizes = await connection.fetch("SELECT count(*) FROM outbox GROUP BY xid ORDER BY 1")
    assert [row[0] for row in sizes] == [1, 380]
    await check_outbox(connection)


async def test_queued_requests_are_written_at_the_stop(
    database: str, workspace: str, connection: asyncpg.Connection
) -> None:
    """A writer that is stopped first answers the requests in its queue."""
    async with (
        Database(database, pool_size=5) as pool,
        links_locked(database) as blocker,
        AsyncExitStack() as stack,
    ):
        writer = await stack.enter_async_context(
            GroupWriter(
                Transactions(pool),
                Executor(IdSource(), pool.measures, register_unknown=False),
                Supervisor(),
            )
        )
        in_flight = asyncio.create_task(writer.write(request(workspace, "doc_1", "deal_1")))
        await until(partial(waiting, connection, 1))
        in_the_queue = asyncio.create_task(writer.write(request(workspace, "doc_2", "deal_1")))
        stopping = asyncio.create_task(stack.aclose())
        await blocker.execute("ROLLBACK")
        await stopping
        assert [(await task).status for task in (in_flight, in_the_queue)] == [201, 201]
    assert await connection.fetchval("SELECT count(*) FROM document_links") == 2


async def test_a_request_that_waits_too_long_is_refused(
    writer: GroupWriter, workspace: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A request that waited too long in the queue is refused: the database does not keep up."""
    monkeypatch.setattr("service.store.writing.execute.MAX_WAIT_S", -1.0)
    with pytest.raises(Unavailable, match="does not keep up"):
        await writer.write(request(workspace, "doc_1", "deal_1"))
