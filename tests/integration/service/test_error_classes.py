"""Errors of Postgres by SQLSTATE: 503 with Retry-After, or 500 for a mistake of the service."""

import time

import asyncpg
import pytest

from service.core import values
from service.core.ids import IdSource
from service.core.links import LinksWrite
from service.core.writes import Reply
from service.store.database import Database
from service.store.writing.execute import Executor
from service.store.writing.group import LARGE_CHANGES, GroupWriter
from service.store.writing.transaction import BEGIN_WAITING, Transactions
from service.supervision import Supervisor
from tests.support.service.api import Api, new_key, seed

TEMPORARY = [
    "08000", "08003", "08006", "08P01", "25006", "25P03", "25P04", "28000", "3D000", "40001", "40003",
    "40P01", "42501", "42P01", "42883", "53000", "53100", "53200", "53300", "54000", "55000", "55P03",
    "57014", "57P01", "57P02", "57P03", "57P05", "58000", "58030", "72000",
]  # fmt: skip
MISTAKES = ["22012", "23514", "42601", "XX000"]
REFUSE = """
CREATE OR REPLACE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN RAISE EXCEPTION 'refused by the test' USING ERRCODE = '{code}'; END $$;
CREATE OR REPLACE TRIGGER refuse BEFORE UPDATE ON documents EXECUTE FUNCTION refuse()
"""


async def test_each_class_has_a_status(api: Api, connection: asyncpg.Connection) -> None:
    """Both writers answer a temporary error with 503 and Retry-After, and a mistake with 500."""
    for code in TEMPORARY + MISTAKES:
        await connection.execute(REFUSE.format(code=code))
        expected = (503, True) if code in TEMPORARY else (500, False)
        for answer in (
            await api.client.put("/v1/documents/doc_1", json={"display_name": code}),
            await api.add("doc_2", "ship_1"),
        ):
            assert (answer.status_code, "retry-after" in answer.headers) == expected, code
    await connection.execute("DROP TRIGGER refuse ON documents")
    assert (await api.client.put("/v1/documents/doc_1", json={})).status_code == 200
    assert (await api.add("doc_2", "ship_1")).status_code == 201


async def test_a_transaction_that_postgres_ended_is_retried(
    database: str, connection: asyncpg.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A transaction that Postgres ended because the process hung is retried once."""
    begin = BEGIN_WAITING.replace("= '10s'", "= '1s'")
    monkeypatch.setattr("service.store.writing.transaction.BEGIN_WAITING", begin)
    await new_key(database)
    await seed(connection, LARGE_CHANGES + 1, 1)
    workspace = await connection.fetchval("SELECT id::text FROM workspaces")
    stalls = [1.5, 0.0]  # on a busy machine a step of the second attempt takes some 100 ms

    def respond(*_: object) -> Reply:
        time.sleep(stalls.pop(0))  # the whole process, not only this task
        return Reply(200, b"{}")

    names = [f"doc_{number + 1}" for number in range(LARGE_CHANGES + 1)]
    keys = [
        values.LinkKey(
            values.DocumentKey(workspace, name), values.EntityKey(workspace, "deal", "deal_1")
        )
        for name in names
    ]
    request = LinksWrite(
        caller=values.Caller(workspace, "key_1", "req_1"),
        cause="batch",
        changes=[values.AddLink(key) for key in keys],
        respond=respond,
    )
    async with (
        Database(database, pool_size=2) as pool,
        GroupWriter(
            Transactions(pool),
            Executor(IdSource(), pool.measures, register_unknown=False),
            Supervisor(),
        ) as writer,
    ):
        assert (await writer.write(request)).status == 200
    assert stalls == []
    assert await connection.fetchval("SELECT count(*) FROM document_links") == len(names)
