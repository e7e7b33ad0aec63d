"""Caller and trace: from the request's headers to its event and its answer."""

import asyncpg
import msgspec
import pytest

from tests.support.service.api import Api
from tests.support.topic.subscriber import read_outbox

TRACEPARENT = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"


async def test_request_and_trace_reach_the_event(api: Api, connection: asyncpg.Connection) -> None:
    """The event has the request id, the key's public id and the trace, which is in the row as well."""
    headers = {"X-Request-ID": "mine-1.2_3", "traceparent": TRACEPARENT}
    made = await api.add("doc_1", "ship_1", headers)
    assert made.headers["x-request-id"] == "mine-1.2_3"
    (event,) = [msgspec.json.decode(value) for value in await read_outbox(connection)]
    assert event["traceparent"] == TRACEPARENT
    assert event["data"]["request_id"] == "mine-1.2_3"
    assert event["data"]["actor"] == await connection.fetchval("SELECT id FROM api_keys")
    assert await connection.fetchval("SELECT traceparent FROM outbox") == TRACEPARENT


@pytest.mark.parametrize("given", ["a b", "x" * 129, 'quote"'])
async def test_unsafe_request_id_is_replaced(
    api: Api, connection: asyncpg.Connection, given: str
) -> None:
    """An unsafe request id is replaced by a new one, the same in the answer and in the event."""
    made = await api.add("doc_1", "ship_1", {"X-Request-ID": given})
    request_id = made.headers["x-request-id"]
    assert request_id.startswith("req_")
    (event,) = [msgspec.json.decode(value) for value in await read_outbox(connection)]
    assert event["data"]["request_id"] == request_id


async def test_event_says_what_the_row_says(api: Api, connection: asyncpg.Connection) -> None:
    """Id and times in the event are those of the row, to the microsecond."""
    made = await api.add("doc_1", "ship_1")
    await api.unlink("doc_1", made.json()["data"]["id"])
    row = await connection.fetchrow("SELECT * FROM document_links")
    assert row is not None
    _, gone = [msgspec.json.decode(value) for value in await read_outbox(connection)]
    link = gone["data"]["link"]
    form = "%Y-%m-%dT%H:%M:%S.%fZ"
    assert link["id"] == str(row["id"]) == made.json()["data"]["id"]
    assert link["created_at"] == row["created_at"].strftime(form)
    assert link["deleted_at"] == gone["time"] == row["deleted_at"].strftime(form)
    assert (row["deleted_cause"], gone["data"]["cause"]) == ("unlink", "unlink")
