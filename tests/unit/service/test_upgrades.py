"""Offers of another protocol: however they are cut into segments, the parser sees none."""

from itertools import combinations

import pytest

from service.server.upgrades import UpgradeFilter

HEAD = b"POST /upgrade HTTP/1.1\r\nX-Upgrade: a\r\nUpgrade: h2c\r\nConnection: Upgrade\r\n\r\n"
HIDDEN = HEAD.replace(b"\r\nUpgrade:", b"\r\nx-offer:")


def filtered(segments: list[bytes]) -> bytes:
    """Return what a parser gets that takes what is held back before the next segment."""
    hidden, held, out = UpgradeFilter(), b"", b""
    for segment in segments:
        if not held and hidden.passes(segment):
            out += segment
        else:
            data, held = hidden.split(held + segment)
            out += data
    return out + held


@pytest.mark.parametrize("name", [b"Upgrade", b"UPGRADE", b"upgrade", b"uPGRADE"])
def test_the_field_is_hidden_wherever_it_is_cut(name: bytes) -> None:
    """In one segment, in two, in three: the field is another one, and nothing else has changed."""
    head = HEAD.replace(b"\r\nUpgrade", b"\r\n" + name)
    assert filtered([head]) == HIDDEN
    assert filtered([bytes([byte]) for byte in head]) == HIDDEN
    near = range(HEAD.index(b"X-Upgrade") - 2, HEAD.index(b"h2c") + 2)
    for one, other in combinations(near, 2):
        assert filtered([head[:one], head[one:other], head[other:]]) == HIDDEN


@pytest.mark.parametrize(
    "body",
    [b'{"a":"upgrade: x"}', b'{"a":"UPGRADE"}', b"upgrade", b'{"upgrade":1}', b'{\n"upgrade":1}'],
)
def test_json_is_left_alone(body: bytes) -> None:
    """A value may say upgrade, wherever it is cut."""
    for cut in range(1, len(body)):
        segments = [HEAD.replace(b"Upgrade: h2c\r\n", b""), b"{" + body[:cut], body[cut:]]
        assert filtered(segments) == b"".join(segments)
