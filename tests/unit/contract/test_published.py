"""The descriptions: compatible with the last release, and committed as the service makes them now."""

from tests.contract.documents import PATHS, breaks, made_now, published, released

RENEW = "look at the difference, then run `make publish-contract` and commit what it writes"


async def test_nothing_that_is_published_breaks() -> None:
    """No difference from the documents of the last release breaks a caller or a subscriber."""
    before = released()
    assert (
        {"openapi.json", "asyncapi.json", "document.linked.json"} <= before.keys() <= PATHS.keys()
    )
    assert breaks(before, await made_now()) == []


async def test_everything_is_published() -> None:
    """The committed documents are those that the service makes now, so that a review sees each change."""
    assert await made_now() == published(), RENEW


async def test_missing_document_is_a_break() -> None:
    """A removed event type is a break, although there is nothing to compare."""
    now = await made_now()
    del now["document.restored.json"]
    assert breaks(published(), now) == ["document.restored.json: is gone"]


async def test_documents_are_the_same_each_time() -> None:
    """Each process describes itself by the same bytes."""
    assert await made_now() == await made_now()
