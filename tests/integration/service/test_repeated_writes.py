"""Writes that repeat the stored values: no row and no ETag changes."""

import json

import asyncpg
import pytest

from tests.support.service.api import Api
from tests.support.service.rows import everything

URL = "/v1/documents/doc_1"
JSON = {"Content-Type": "application/json"}

METADATA = [
    '{"n":1e100}',
    '{"n":1E5}',
    '{"n":1.0}',
    '{"n":-0}',
    '{"n":-0.0}',
    '{"n":5e-324}',
    '{"n":1.7976931348623157e308}',
    '{"n":0.1000}',
    '{"n":123456789012345678901234567890.5}',
    '{"n":1180591620717411303425}',
    '{"n":' + "9" * 4000 + "}",
    '{"z":1,"aa":2,"b":{"y":[1,2.50],"x":null}}',
    '{"a":1,"a":2}',
    '{"":"","é":"é","\\u00e9\\u0301":"\\ud83e\\udde8\\/\\b\\u001f"}',
    '{"a":[true,1,false,0,"1",[],{},null]}',
    "{}",
    "null",
]


@pytest.mark.parametrize("method", ["PUT", "POST"])
async def test_the_same_metadata_writes_nothing(
    api: Api, connection: asyncpg.Connection, method: str
) -> None:
    """A value that is repeated, however it is written, changes neither a row nor the ETag."""
    resources = '["ship_1"]' if method == "PUT" else '{"set":[]}'
    for metadata in METADATA:
        fields = f'"display_name":"\\u00e9","category":"","metadata":{metadata}'
        body = f'{{{fields},"resources":{resources}}}'
        first = await api.client.request(method, URL, content=body, headers=JSON)
        assert first.status_code == 200, first.text
        rows = await everything(connection)
        read = await api.client.get(URL)
        # What was read may be written back.
        shown = json.dumps({"metadata": read.json()["data"]["metadata"]})
        again = [
            read,
            await api.client.request(method, URL, content=body, headers=JSON),
            await api.client.post(URL, content=shown, headers=JSON),
            await api.client.request(method, URL, content=body, headers=JSON),
        ]
        for answer in again:
            assert answer.headers["etag"] == first.headers["etag"], metadata
            assert answer.json()["data"] == first.json()["data"]
        assert await everything(connection) == rows


DIFFERENT = [
    ('{"n":1}', '{"n":true}'),
    ('{"n":1}', '{"n":"1"}'),
    ("{}", "null"),
    ('{"n":null}', "{}"),
    ('{"n":[1,2]}', '{"n":[2,1]}'),
    ('{"n":9007199254740993}', '{"n":9007199254740992}'),
]


async def test_another_value_is_written(api: Api) -> None:
    """A value that is stored differently makes a new revision, and is returned as it was written."""
    for pair in DIFFERENT:
        tags = []
        for metadata in (*pair, pair[0]):
            body = f'{{"metadata":{metadata}}}'
            answer = await api.client.put(URL, content=body, headers=JSON)
            assert answer.json()["data"]["metadata"] == json.loads(metadata)
            tags.append(answer.headers["etag"])
        assert len(set(tags)) == 3, pair
