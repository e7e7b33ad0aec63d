"""Conditional requests over HTTP, on the real rows (RFC 9110, section 13)."""

import asyncio

import asyncpg
import httpx
import pytest

from tests.support.service.api import Api
from tests.support.service.rows import everything

URL = "/v1/documents/doc_1"


CURRENT = [['"1"'], ['W/"1"'], ["*"], ['"7", "1"'], ['"7"', '"1"'], ['"1-gzip"'], [', "1",']]
OTHER = [['"2"'], ['"0", W/"2"'], ['"2"', '"3"'], ['"x"']]


@pytest.mark.parametrize("method", ["GET", "HEAD"])
async def test_if_none_match_of_a_read(api: Api, method: str) -> None:
    """A matching If-None-Match gets 304 with ETag and the usual headers; another one gets the document."""
    for lines in CURRENT:
        headers = [("If-None-Match", value) for value in lines]
        answer = await api.client.request(method, URL, headers=headers)
        assert (answer.status_code, answer.content) == (304, b""), lines
        assert answer.headers["etag"] == '"1"'
        assert answer.headers["x-request-id"]
        assert answer.headers["x-ratelimit-remaining"]
        assert not {"content-type", "content-length"} & set(answer.headers)
    for lines in OTHER:
        headers = [("If-None-Match", value) for value in lines]
        answer = await api.client.request(method, URL, headers=headers)
        assert answer.status_code == 200, lines
        assert int(answer.headers["content-length"]) > 0


async def test_if_match_of_a_read(api: Api) -> None:
    """A read with another revision in If-Match is 412, whatever If-None-Match says."""
    for tag, status in (('"1"', 200), ("*", 200), ('"2"', 412), ("1", 400)):
        assert (await api.client.get(URL, headers={"If-Match": tag})).status_code == status
    both = {"If-Match": '"2"', "If-None-Match": '"1"'}
    assert (await api.client.get(URL, headers=both)).status_code == 412
    both = {"If-Match": '"1"', "If-None-Match": '"1"'}
    assert (await api.client.get(URL, headers=both)).status_code == 304


async def test_order_of_404_400_and_412(api: Api) -> None:
    """A malformed condition is 400, then a missing document is 404, before the condition is checked."""
    for headers, status in (({"If-None-Match": "*"}, 404), ({"If-None-Match": "1"}, 400)):
        answer = await api.client.get("/v1/documents/none", headers=headers)
        assert answer.status_code == status


async def test_dates_are_no_conditions(api: Api) -> None:
    """Conditions by date are ignored without Last-Modified (RFC 9110, 13.1.3 and 13.1.4), as are ranges."""
    headers = {
        "If-Modified-Since": "Fri, 01 Jan 2100 00:00:00 GMT",
        "If-Unmodified-Since": "Thu, 01 Jan 1970 00:00:00 GMT",
        "If-Range": '"1"',
        "Range": "bytes=0-1",
    }
    answer = await api.client.get(URL, headers=headers)
    assert (answer.status_code, answer.json()["data"]["id"]) == (200, "doc_1")
    assert (await api.client.post(URL, json={"category": "x"}, headers=headers)).status_code == 200


async def test_put_with_if_none_match(api: Api, connection: asyncpg.Connection) -> None:
    """PUT with `If-None-Match: *` creates or restores a document, and overwrites none."""
    headers = {"If-None-Match": "*"}
    made = await api.client.put("/v1/documents/mine", json={"category": "a"}, headers=headers)
    assert (made.status_code, made.headers["etag"]) == (201, '"1"')
    rows = await everything(connection)
    body = {"category": "b", "resources": ["ship_1"]}
    refused = await api.client.put("/v1/documents/mine", json=body, headers=headers)
    assert (refused.status_code, refused.json()["code"]) == (412, "precondition_failed")
    assert await everything(connection) == rows
    await api.client.delete("/v1/documents/mine")
    for required, status in (("If-Match", 412), ("If-None-Match", 201)):
        answer = await api.client.put("/v1/documents/mine", json={}, headers={required: "*"})
        assert answer.status_code == status


async def test_concurrent_puts_with_if_none_match(api: Api, connection: asyncpg.Connection) -> None:
    """Of twenty concurrent PUTs with `If-None-Match: *` one creates the document, the others are 412."""
    headers = {"If-None-Match": "*"}
    answers = await asyncio.gather(
        *(
            api.client.put("/v1/documents/new", json={"category": str(n)}, headers=headers)
            for n in range(20)
        )
    )
    (made,) = [answer for answer in answers if answer.status_code == 201]
    assert [answer.status_code for answer in answers].count(412) == 19
    row = await connection.fetchrow("SELECT category, revision FROM documents WHERE id = 'new'")
    assert row is not None
    assert tuple(row) == (made.json()["data"]["category"], 1)


async def calls(api: Api) -> list[tuple[str, str, object]]:
    """Return a write of each kind to doc_1, in the order in which to send them."""
    deal = {"entity_type": "deal", "entity_id": "deal_1"}
    made = await api.client.post(f"{URL}/link", json=deal)
    link_id = made.json()["data"]["link_id"]
    return [
        ("POST", "/link", deal | {"entity_id": "deal_2"}),
        ("POST", "/links", {"resource_id": "ship_1"}),
        ("PATCH", f"/links/{link_id}", {"role": "signed"}),
        ("DELETE", f"/links/{link_id}", None),
        ("DELETE", "/links?resource_id=ship_1", None),
        ("PUT", "", {"category": "x"}),
        ("POST", "", {"category": "y"}),
        ("DELETE", "", None),
    ]


async def test_every_write_to_one_document_takes_both_conditions(
    api: Api, connection: asyncpg.Connection
) -> None:
    """Each write is refused without a change if a condition fails or is malformed, and executed otherwise."""
    revision = 2
    for method, path, body in await calls(api):
        rows = await everything(connection)
        send = api.client.request

        async def status(*lines: tuple[str, str]) -> int:
            answer = await send(method, URL + path, json=body, headers=list(lines))  # noqa: B023 - it is called in its turn of the loop
            return answer.status_code

        assert await status(("If-None-Match", "*")) == 412
        assert await status(("If-None-Match", f'"{revision}"')) == 412
        assert await status(("If-None-Match", f'W/"{revision}"')) == 412
        assert await status(("If-Match", f'"{revision}"'), ("If-None-Match", "*")) == 412
        assert await status(("If-Match", '"0"'), ("If-Match", 'W/"1"')) == 412
        assert await status(("If-Match", str(revision))) == 400
        assert await status(("If-None-Match", "")) == 400
        assert await everything(connection) == rows
        lines = [("If-Match", '"0"'), ("If-Match", f'W/"{revision}"'), ("If-None-Match", '"0"')]
        assert await status(*lines) in {200, 201}, (method, path)
        revision += 1


async def test_answers_about_links_carry_the_etag(api: Api) -> None:
    """Link, unlink and role calls return the document's ETag, whether it changed or not."""

    async def check(answer: httpx.Response) -> None:
        assert answer.is_success, answer.text
        assert answer.headers["etag"] == (await api.client.get(URL)).headers["etag"]

    for method, path, body in (await calls(api))[:5]:
        await check(await api.client.request(method, URL + path, json=body))
    for _ in range(2):  # new, then existing
        await check(await api.add("doc_1", "item_1"))
    many = [api.add("doc_1", f"item_{n}") for n in range(2, 21)]
    tags = [answer.headers["etag"] for answer in await asyncio.gather(*many)]
    assert sorted(int(tag.strip('"')) for tag in tags) == list(range(9, 28))


async def test_a_chain_of_conditional_writes(api: Api) -> None:
    """The ETag of each answer is a valid If-Match for the next call, without a read in between."""
    tag = (await api.client.get(URL)).headers["etag"]
    for number in range(1, 6):
        answer = await api.add("doc_1", f"ship_{number}", {"If-Match": tag})
        assert answer.status_code == 201
        stale = await api.add("doc_1", "ship_9", {"If-Match": tag})
        assert stale.status_code == 412
        tag = answer.headers["etag"]
    answer = await api.client.put(URL, json={"category": "x"}, headers={"If-Match": tag})
    assert answer.status_code == 200
