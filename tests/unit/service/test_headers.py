"""Request headers: repeated lines, and fields with a grammar."""

import pytest

from service.edge.calls.body import check_content_type
from service.edge.calls.call import headers_of, traceparent_of, tracestate_of
from service.edge.calls.problems import EdgeError
from service.server.refusals import check_host

IDS = "0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331"


def test_lines_of_a_field_are_one_value() -> None:
    """Repeated lines are joined in order, although other fields are between them."""
    lines = [(b"if-match", b'"1"'), (b"host", b"a"), (b"if-match", b'"2", "3"')]
    assert headers_of(lines) == {b"if-match": b'"1", "2", "3"', b"host": b"a"}
    assert headers_of(lines[:2]) == {b"if-match": b'"1"', b"host": b"a"}


@pytest.mark.parametrize(
    "host",
    ["a", "links.example:8080", "127.0.0.1:80", "[::1]", "[::1]:8080", "a_b.c-d", "%41", "", "a:"],
)
def test_a_host_is_accepted(host: str) -> None:
    """Names, addresses and ports are valid, and an empty host as well (RFC 3986, 3.2.2)."""
    check_host([(b"host", host.encode())], "1.1")


@pytest.mark.parametrize(
    "host",
    [
        "a, b",
        "a b",
        "a/b",
        "a:b",
        "::1",
        "[::1",
        "a@b",
        "http://a",
        "a?b",
        "é",
        "a\tb",
        "%4",
        "[a]b",
    ],
)
def test_another_host_is_not(host: str) -> None:
    """An invalid host, or two lines of it, are refused with the field's name."""
    with pytest.raises(EdgeError) as refusal:
        check_host([(b"host", host.encode())], "1.1")
    assert [error.field for error in refusal.value.errors] == ["Host"]


def test_only_http_1_0_needs_no_host() -> None:
    """HTTP/1.1 requires a host (RFC 9112, 3.2)."""
    check_host([], "1.0")
    with pytest.raises(EdgeError):
        check_host([], "1.1")
    with pytest.raises(EdgeError):
        check_host([(b"host", b"a"), (b"host", b"a")], "1.0")


@pytest.mark.parametrize(
    "content_type",
    [
        'application/json; profile="x"',
        "application/json; charset=utf-8; version=1",
        "application/json;version=1;CHARSET=UTF-8",
        'application/json; profile="a;charset=latin1"',
        r'application/json; title="a \" b; charset=latin1"',
        "application/json;",
        "application/json; ; charset=utf8",
        "application/json; odd",
        "application/json ; charset = utf-8",
    ],
)
@pytest.mark.parametrize("coding", [None, "identity", "Identity, identity", ""])
def test_parameters_other_than_the_charset_are_ignored(
    content_type: str, coding: str | None
) -> None:
    """JSON is accepted with any parameters, and with the coding `identity`."""
    headers = {b"content-type": content_type.encode()}
    if coding is not None:
        headers[b"content-encoding"] = coding.encode()
    check_content_type(headers)


@pytest.mark.parametrize(
    "content_type",
    [
        "application/json; charset=latin1",
        "application/json; version=1; charset=utf-16",
        "application/json; charset=utf-8; charset=latin1",
        "application/json; charset = iso-8859-1",
        "application/json, application/json",
        "application/json, text/plain",
        "application/jsonp",
        "application/json; odd; charset=latin1",
    ],
)
def test_other_charsets_and_types_are_not_taken(content_type: str) -> None:
    """Another charset, or two types, are 415."""
    with pytest.raises(EdgeError) as refusal:
        check_content_type({b"content-type": content_type.encode()})
    assert refusal.value.code == "unsupported_media_type"


@pytest.mark.parametrize(
    "coding", ["gzip", "br", "GZIP", "identity, gzip", "zstd", "x", "gzip, br"]
)
def test_content_codings_are_refused(coding: str) -> None:
    """A compressed body is 415, and the answer says what is accepted."""
    headers = {b"content-type": b"application/json", b"content-encoding": coding.encode()}
    with pytest.raises(EdgeError) as refusal:
        check_content_type(headers)
    assert refusal.value.code == "unsupported_media_type"
    assert (b"accept-encoding", b"identity") in refusal.value.headers


@pytest.mark.parametrize(
    ("given", "kept"),
    [
        (f"00-{IDS}-01", f"00-{IDS}-01"),
        (f"00-{IDS}-00", f"00-{IDS}-00"),
        (f"00-{IDS}-ff", f"00-{IDS}-ff"),
        (f"01-{IDS}-01", f"00-{IDS}-01"),
        (f"cc-{IDS}-01-what-the-future-holds", f"00-{IDS}-01"),
        (f"cc-{IDS}-fe", f"00-{IDS}-00"),
        (f"fe-{IDS}-03-", f"00-{IDS}-01"),
        (f"ff-{IDS}-01", None),
        (f"00-{IDS}-01-more", None),
        (f"00-{IDS}-01-", None),
        (f"cc-{IDS}-01.what", None),
        (f"cc-{IDS}-0", None),
        (f"00-{'0' * 32}-b7ad6b7169203331-01", None),
        (f"00-0af7651916cd43dd8448eb211c80319c-{'0' * 16}-01", None),
        (f"00-{IDS.upper()}-01", None),
        (f"0A-{IDS}-01", None),
        (f"00-{IDS}-0A", None),
        (f"00-{IDS}-01, 00-{IDS}-01", None),
        (f" 00-{IDS}-01", None),
        (f"00-{IDS}-01\n", None),
        (f"00_{IDS}_01", None),
        ("", None),
    ],
)
def test_traceparent(given: str, kept: str | None) -> None:
    """W3C Trace Context: version ff and zero ids are invalid; a later version has four known fields."""
    assert traceparent_of(given.encode()) == kept


@pytest.mark.parametrize(
    ("given", "kept"),
    [
        ("vendor=value", True),
        ("congo=t61rcWkgMzE,rojo=00f067aa0ba902b7", True),
        ('tenant@system=a b!"#~ , ,\tother=1', True),
        ("a=" + "x" * 256 + ",b=" + "y" * 251, True),
        ("a=" + "x" * 257, False),
        ("a=" + "x" * 256 + ",b=" + "y" * 252, False),
        ("", False),
        ("vendor", False),
        ("vendor=", False),
        ("=value", False),
        ("Vendor=value", False),
        ("vendor=a=b", False),
        ("vendor=\u00e9", False),
        ("vendor=value\n", False),
    ],
)
def test_tracestate(given: str, kept: bool) -> None:  # noqa: FBT001 - a column of the table above
    """A tracestate is a list of members (W3C Trace Context); one of more than 512 characters is dropped."""
    found = tracestate_of({b"tracestate": given.encode("latin-1")})
    assert found == (given if kept else None)


def test_no_tracestate() -> None:
    """A call without the header has none."""
    assert tracestate_of({}) is None
