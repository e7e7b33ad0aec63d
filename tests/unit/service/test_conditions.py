"""Conditional requests: the meaning of If-Match and If-None-Match, and their order."""

import pytest

from service.core.errors import PreconditionFailed
from service.core.ids import IdSource
from service.core.preconditions import Preconditions, Tags
from service.core.values import DocumentState
from service.edge.calls.call import Call, preconditions_of
from service.edge.calls.problems import EdgeError

STAR = Tags(star=True)
NAMES = {"If-Match": b"if-match", "If-None-Match": b"if-none-match"}


def tags(*revisions: int) -> Tags:
    """Return a list of tags."""
    return Tags(frozenset(revisions))


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("*", STAR),
        (" * ", STAR),
        ('"4"', tags(4)),
        ('W/"4"', tags(4)),
        ('"4", "5"', tags(4, 5)),
        ('"4","5"', tags(4, 5)),
        ('W/"4" ,\t"5"', tags(4, 5)),
        (', "4",, "5" ,', tags(4, 5)),
        ('"x", "5"', tags(5)),
        ('"a,b", "5"', tags(5)),
        ('""', tags()),
        ('"é"', tags()),
        ('"99999999999999999999"', tags()),
        ('"4-gzip"', tags(4)),
        ('"4--gzip"', tags(4)),
        ('W/"4;gzip"', tags(4)),
        ('"4-br"', tags(4)),
        ('"4-zip"', tags()),
        ('"-4"', tags()),
    ],
)
@pytest.mark.parametrize("name", NAMES)
def test_entity_tags(name: str, value: str, expected: Tags) -> None:
    """Lists, weak tags, and tags that proxies have changed are parsed as in RFC 9110."""
    read = preconditions_of({NAMES[name]: value.encode()})
    assert read is not None
    assert (read.if_match if name == "If-Match" else read.if_none_match) == expected
    assert None in {read.if_match, read.if_none_match}


@pytest.mark.parametrize(
    "value",
    ["", " ", ",", "4", '"4', '4"', "'4'", '"4" "5"', 'w/"4"', 'W"4"', 'W/ "4"', '*, "4"', "*, *",
     '"4", *', '"4";', '"a b"', "**", "null", '"4"x'],
)  # fmt: skip
@pytest.mark.parametrize("name", NAMES)
def test_malformed_conditions_are_refused(name: str, value: str) -> None:
    """A malformed field is 400 with its name, because an unknown condition must not pass."""
    with pytest.raises(EdgeError) as refusal:
        preconditions_of({NAMES[name]: value.encode()})
    assert [error.field for error in refusal.value.errors] == [name]


def test_without_conditions_there_is_nothing_to_check() -> None:
    """Conditions by date are ignored: no answer has a Last-Modified."""
    lines = [(b"if-modified-since", b"x"), (b"if-unmodified-since", b"x"), (b"if-range", b'"1"')]
    assert Call("GET", "/", b"", lines, IdSource()).preconditions is None


DOCUMENT, DELETED = DocumentState(0, 4), DocumentState(0, 4, deleted=True)


@pytest.mark.parametrize(
    ("if_match", "if_none_match", "document"),
    [
        (tags(4), None, DOCUMENT),
        (tags(3, 4), tags(3), DOCUMENT),
        (STAR, None, DOCUMENT),
        (None, tags(3), DOCUMENT),
        (None, STAR, None),
        (None, STAR, DELETED),
        (None, tags(4), None),
        (tags(4), None, DELETED),
    ],
)
def test_conditions_that_hold(
    if_match: Tags | None, if_none_match: Tags | None, document: DocumentState | None
) -> None:
    """A call whose conditions hold is executed."""
    Preconditions(if_match, if_none_match).check(document)


@pytest.mark.parametrize(
    ("if_match", "if_none_match", "document", "says"),
    [
        (tags(3), None, DOCUMENT, "read it again"),
        (tags(), None, DOCUMENT, "read it again"),
        (tags(3), STAR, DOCUMENT, "read it again"),
        (tags(4), STAR, DOCUMENT, "If-None-Match"),
        (None, STAR, DOCUMENT, "If-None-Match"),
        (None, tags(4), DOCUMENT, "If-None-Match"),
        (STAR, None, None, "does not exist"),
        (STAR, None, DELETED, "does not exist"),
        (tags(1), STAR, None, "does not exist"),
    ],
)
def test_conditions_that_do_not_hold(
    if_match: Tags | None, if_none_match: Tags | None, document: DocumentState | None, says: str
) -> None:
    """A call is refused by If-Match first, and the reason is in the answer."""
    with pytest.raises(PreconditionFailed, match=says):
        Preconditions(if_match, if_none_match).check(document)
