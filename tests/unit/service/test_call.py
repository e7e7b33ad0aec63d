"""Calls: the meaning of their headers, and the effect of invalid ones."""

import pytest

from service.core.ids import IdSource
from service.edge.calls.call import Call
from service.edge.calls.problems import EdgeError
from service.store.keys import Key

TRACEPARENT = b"00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"


def call(method: str = "POST", path: str = "/v1/x", query: bytes = b"", **headers: bytes) -> Call:
    """Return a call with a known key and these headers, whose names have underscores."""
    named = [(name.replace("_", "-").encode(), value) for name, value in headers.items()]
    made = Call(method, path, query, named, IdSource())
    made.key = Key("key_1", "0193e6c4-0000-7000-8000-000000000001", frozenset(), None, None)
    return made


@pytest.mark.parametrize("given", [b"a", b"req-1_2.3", b"x" * 128])
def test_callers_request_id_is_kept(given: bytes) -> None:
    """A request id of safe characters is used."""
    assert call(x_request_id=given).request_id == given.decode()


@pytest.mark.parametrize("given", [b"", b"a b", b"x" * 129, b"a\n", b'"', b"\xff"])
def test_unsafe_request_id_is_replaced(given: bytes) -> None:
    """Another request id is replaced, and does not reach logs and events."""
    assert call(x_request_id=given).request_id.startswith("req_")


def test_caller_is_named_by_its_public_id() -> None:
    """Events get the key's public id, the workspace and the trace."""
    made = call(traceparent=TRACEPARENT, x_request_id=b"r").caller
    assert (made.actor, made.request_id) == ("key_1", "r")
    assert made.traceparent == TRACEPARENT.decode()


@pytest.mark.parametrize("given", [b"", b"00-zz-b7ad6b7169203331-01", TRACEPARENT + b"x", b"\xff"])
def test_malformed_traceparent_is_dropped(given: bytes) -> None:
    """An invalid traceparent does not reach the event."""
    assert call(traceparent=given).caller.traceparent is None


def test_idempotency_tells_calls_and_contents_apart() -> None:
    """Method, path and key make the scope; query and body make the fingerprint."""
    first = call(idempotency_key=b"k").idempotency
    assert first == call(idempotency_key=b'"k"').idempotency
    assert first is not None
    for other in (call("PUT", idempotency_key=b"k"), call(path="/v1/y", idempotency_key=b"k"),
                  call(idempotency_key=b"l")):  # fmt: skip
        assert other.idempotency is not None
        assert other.idempotency.scope != first.scope
    queried = call(query=b"a=1", idempotency_key=b"k").idempotency
    assert queried is not None
    assert queried.scope == first.scope
    assert queried.fingerprint != first.fingerprint


@pytest.mark.parametrize("key", [b"", b'""', b"a b", b"x" * 256, b"\xc3\xa9", b"a\t"])
def test_malformed_idempotency_key_is_refused(key: bytes) -> None:
    """A key that is not 1 to 255 visible characters is refused by name."""
    with pytest.raises(EdgeError) as refusal:
        _ = call(idempotency_key=key).idempotency
    assert [error.field for error in refusal.value.errors] == ["Idempotency-Key"]
