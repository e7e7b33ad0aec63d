"""After any failure inside the writer each caller is answered soon, and the next write succeeds."""

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable
from functools import partial
from itertools import count
from typing import Any

import asyncpg
import pytest

from service.store.writing import group
from service.supervision import SupervisedTask
from tests.support.parts.postgres import END_SESSIONS
from tests.support.service.api import Api
from tests.support.service.locks import LOCK
from tests.support.topic.subscriber import check_outbox
from tests.support.waiting import until

ANSWERED_S = 15
LOCKED_S = 0.1
IDLE = "_idle"
ERRORS = [
    RuntimeError("injected"),
    asyncpg.InterfaceError("injected"),
    asyncio.CancelledError("injected"),
]
AWAITS = [
    "service.store.writing.transaction.Transactions.run",
    "service.store.writing.contended.ContendedWriter._write",
    "service.store.writing.contended.ContendedWriter._step",
    "service.store.writing.group.roll_back",
    "service.store.writing.transaction.Transactions.run_alone",
    "service.store.writing.rows.lock_links",
    "service.store.writing.execute.save",
    "service.store.database.Database.connect",
    "service.store.writing.group.GroupWriter._idle",
    "service.store.writing.group.GroupWriter._write_group",
    "service.store.writing.notifier.Notifier._send",
]
"""Functions that the writer's loop awaits, or tasks that it starts."""


def failing_once(work: Callable[..., Awaitable[Any]], error: BaseException) -> Callable[..., Any]:
    """Return a version of a function that raises the error at its first call."""
    calls = count()

    async def fail(*args: object, **kwargs: object) -> object:
        if next(calls) == 0:
            raise error
        return await work(*args, **kwargs)

    return fail


def inject(monkeypatch: pytest.MonkeyPatch, target: str, error: BaseException) -> None:
    """Let the next call of the target raise the error."""
    path, _, name = target.rpartition(".")
    owner: Any = group
    module, _, attribute = path.rpartition(".")
    if attribute[0].isupper():
        owner = getattr(__import__(module, fromlist=[attribute]), attribute)
    else:
        owner = __import__(path, fromlist=[name])
    monkeypatch.setattr(owner, name, failing_once(getattr(owner, name), error))


@pytest.mark.parametrize("error", ERRORS, ids=lambda error: type(error).__name__)
@pytest.mark.parametrize("target", AWAITS)
async def test_an_error_at_any_await_costs_no_later_call(
    api: Api, connection: asyncpg.Connection, monkeypatch: pytest.MonkeyPatch, target: str,
    error: BaseException,
) -> None:  # fmt: skip
    """The calls at the time of the error are answered, and soon each write succeeds."""
    assert (await api.add("doc_1", "ship_1")).status_code == 201
    inject(monkeypatch, target, error)
    if target.endswith("Database.connect"):
        await connection.execute(END_SESSIONS)  # so that the writer has to connect
    async with asyncio.timeout(ANSWERED_S):
        answers = [await api.add("doc_2", "ship_1")]
        answers += await asyncio.gather(*(api.add(f"doc_{n}", "ship_2") for n in range(1, 6)))
        async with connection.transaction():
            await connection.execute(LOCK, ["doc_7"])
            call = asyncio.create_task(api.add("doc_7", "ship_1"))
            await asyncio.wait({call}, timeout=LOCKED_S)
        answers.append(await call)
    assert {answer.status_code for answer in answers} <= {201, 500, 503}

    async def written() -> bool:
        return (await api.add("doc_3", "ship_3")).is_success

    async def ready() -> bool:
        return (await api.client.get("/readyz")).is_success

    await until(written, timeout_s=10)
    await until(ready, timeout_s=10)
    await check_outbox(connection)


async def test_an_idle_writer_that_fails_starts_again(
    api: Api, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """An error of the idle writer is logged with the name of its task, and no write fails."""
    keyed = {"Idempotency-Key": "k"}  # after such a write the next transaction is begun ahead
    assert (await api.add("doc_1", "ship_1", keyed)).status_code == 201
    inject(monkeypatch, "service.store.writing.group.roll_back", RuntimeError("injected"))

    async def ended() -> bool:
        return any(line.message == "task.ended" for line in caplog.records)

    await until(ended)
    (line,) = [vars(line) for line in caplog.records if line.message == "task.ended"]
    assert (line["task"], line["error"]) == ("group-writer", "RuntimeError: injected")
    assert (await api.add("doc_2", "ship_1")).status_code == 201


async def test_a_task_that_ends_is_started_again() -> None:
    """A task that ends by an error, a cancellation or by itself is started again, until it is stopped."""
    ends: list[BaseException | None] = [ValueError("one"), asyncio.CancelledError(), None]
    starts = count()
    running = asyncio.Event()

    async def work() -> None:
        number = next(starts)
        if number < len(ends):
            if error := ends[number]:
                raise error
            return
        running.set()
        await asyncio.Event().wait()

    task = SupervisedTask("test", work)
    async with asyncio.timeout(10):
        await running.wait()
        await task.stop()
    assert next(starts) == len(ends) + 1


async def test_a_write_that_hangs_is_answered(
    monkeypatch: pytest.MonkeyPatch, api: Api, connection: asyncpg.Connection
) -> None:
    """If the writer hangs, its callers are answered within the deadline of a write."""
    monkeypatch.setattr("service.edge.calls.endpoint.WRITE_DEADLINE_S", 0.3)
    monkeypatch.setattr("service.store.writing.group.DRAIN_TIMEOUT_S", 0.1)

    async def hang(*_: object) -> None:
        await asyncio.Event().wait()

    monkeypatch.setattr("service.store.writing.group.GroupWriter._write_group", hang)
    async with asyncio.timeout(5):
        answer = await api.add("doc_1", "ship_1")
    assert (answer.status_code, answer.headers["retry-after"]) == (503, "1")
    assert "not known" in answer.json()["detail"]
    assert await connection.fetchval("SELECT count(*) FROM document_links") == 0


async def test_a_task_that_fails_again_and_again_makes_the_process_not_ready(
    api: Api, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Meanwhile /readyz is 503 with the task's name; one log line says so, another one the end."""
    monkeypatch.setattr("service.supervision.LASTING_S", 2.0)
    idle: Any = getattr(group.GroupWriter, IDLE)
    broken = asyncio.Event()
    failures: list[None] = []

    async def fail(writer: group.GroupWriter) -> None:
        if broken.is_set():
            failures.append(None)
            raise RuntimeError("injected")
        await idle(writer)

    monkeypatch.setattr(group.GroupWriter, IDLE, fail)

    async def ready(status: int) -> bool:
        page = await api.client.get("/readyz")
        return page.status_code == status and ("group-writer" in page.text) == (status == 503)

    broken.set()
    assert (await api.add("doc_1", "ship_1")).status_code == 201  # the task's idling fails after it
    await until(partial(ready, 503))

    async def failed_often() -> bool:
        return len(failures) > 10

    await until(failed_often)
    assert (await api.client.get("/healthz")).status_code == 200
    broken.clear()
    await until(partial(ready, 200))
    assert (await api.add("doc_2", "ship_1")).status_code == 201
    lines = Counter(line.message for line in caplog.records if line.message.startswith("task."))
    assert lines == {"task.ended": 1, "task.failing": 1, "task.recovered": 1}


async def test_a_task_that_ends_again_and_again_is_logged_once(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """A task that runs for a while before each error has one line for each class of error."""
    monkeypatch.setattr("service.supervision.LASTING_S", 0.0)
    monkeypatch.setattr("service.supervision.RESTART_S", 0.0)
    starts = count()

    async def work() -> None:
        raise (ValueError if next(starts) % 2 else KeyError)

    async def restarted_often() -> bool:
        return next(starts) > 20

    task = SupervisedTask("work", work)
    await until(restarted_often)
    await task.stop()
    lines = Counter((line.message, vars(line)["error"]) for line in caplog.records)
    assert lines == {("task.ended", "ValueError"): 1, ("task.ended", "KeyError"): 1}
