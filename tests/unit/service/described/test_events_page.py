"""The page /docs/events says what the AsyncAPI document says."""

import json
import re
from collections import Counter
from collections.abc import Iterator
from html import unescape
from html.parser import HTMLParser
from typing import Any

import jsonschema
import pytest

from service.core.ids import LINK_PREFIX
from service.described.asyncapi import asyncapi
from service.described.events import EVENT_TYPES, event_schema
from service.described.events_page import events_page
from service.described.schemas import Schema
from service.described.snapshots import MARKER_TYPES, marker_schema

DOCUMENT = asyncapi()
PAGE = events_page(DOCUMENT)
TYPES = (*EVENT_TYPES, *MARKER_TYPES)
SCHEMAS: dict[str, Schema] = {name: event_schema(name) for name in EVENT_TYPES}
SCHEMAS |= {name: marker_schema(name) for name in MARKER_TYPES}
VOID = {"meta", "link", "wbr"}


class Outline(HTMLParser):
    """The page's elements that readers navigate by. A wrongly nested tag fails the test."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: Counter[str] = Counter()
        self.levels: list[int] = []
        self.anchors: list[str] = []
        self.targets: set[str] = set()
        self.feed(PAGE)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Collect headings, anchors and links."""
        self.tags[tag] += 1
        if tag not in VOID:
            self.open.append(tag)
        if re.fullmatch("h[1-6]", tag):
            self.levels.append(int(tag[1]))
        for name, value in attrs:
            if name == "id":
                self.anchors.append(str(value))
            if name == "href" and str(value).startswith("#"):
                self.targets.add(str(value)[1:])
            if name == "scope":
                self.tags[f"{tag} {name}"] += 1

    def handle_endtag(self, tag: str) -> None:
        """Check that this closes the innermost element."""
        assert self.open.pop() == tag


def part(name: str) -> str:
    """Return the page's part about a type."""
    return next(each for each in PAGE.split("<article>") if f"<h3 id={json.dumps(name)}>" in each)


def paths(schema: dict[str, Any], prefix: str = "") -> Iterator[str]:
    """Yield the paths of all fields of a schema."""
    for name, inner in schema.get("properties", {}).items():
        yield prefix + name
        yield from paths(inner, f"{prefix}{name}.")


def messages() -> Iterator[dict[str, Any]]:
    """Yield all messages of the document."""
    yield from DOCUMENT["components"]["messages"].values()


def test_page_can_be_navigated() -> None:
    """Headings are in order, all links lead to unique anchors, all tables have captions and headers."""
    outline = Outline()
    assert outline.open == []
    assert outline.levels[0] == 1
    assert outline.levels.count(1) == outline.tags["main"] == outline.tags["nav"] == 1
    steps = zip(outline.levels, outline.levels[1:], strict=False)
    assert all(after - before <= 1 for before, after in steps)
    assert len(outline.anchors) == len(set(outline.anchors))
    assert outline.targets <= set(outline.anchors)
    assert outline.tags["caption"] == outline.tags["table"] == 2 * len(TYPES) + 1
    assert outline.tags["th scope"] == outline.tags["th"]


@pytest.mark.parametrize("name", TYPES)
def test_each_field_has_a_description(name: str) -> None:
    """The table of a type has every field of its schema, with its type and a description."""
    row = r'<th scope="row"><code>(.+?)</code></th><td><span class="type">(.*?)</span>(.*?)</td>'
    rows = re.findall(row, part(name))
    (message,) = (each for each in messages() if each["name"] == name)
    wanted = [*paths(SCHEMAS[name]), *paths(message["headers"])]
    assert [field.replace("<wbr>", "") for field, _, _ in rows] == wanted
    assert all(kind and meaning for _, kind, meaning in rows)


@pytest.mark.parametrize("name", TYPES)
def test_example_is_valid(name: str) -> None:
    """The example that the page shows is valid for its type's schema, formats included."""
    shown = re.search(r"<pre[^>]*><code>(.*?)</code></pre>", part(name), re.DOTALL)
    assert shown is not None
    checker = jsonschema.Draft202012Validator.FORMAT_CHECKER
    event = json.loads(unescape(shown[1]))
    jsonschema.Draft202012Validator(SCHEMAS[name], format_checker=checker).validate(event)


def test_headers_of_the_examples_are_valid() -> None:
    """The headers in each message's example are valid for the message's schema of headers."""
    for message in messages():
        for example in message["examples"]:
            jsonschema.validate(example["headers"], message["headers"])


def test_the_two_forms_of_a_link_id_are_explained() -> None:
    """The field `data.link.id` says that `dlnk_…` is the same id in its other form."""
    row = re.search(r"data\.<wbr>link\.<wbr>id</code></th>.*?</tr>", part("document.linked"))
    assert row is not None
    assert f"<code>{LINK_PREFIX}_</code>" in row[0]


def test_prose_and_channels_are_shown() -> None:
    """The page has each topic with its types, and the parts about exactly-once reading and gaps."""
    for channel in DOCUMENT["channels"].values():
        assert f"<code>{channel['address']}</code>" in PAGE
        assert f">{channel['title']}</h3>" in PAGE
    for title in ("Reading exactly once", "Versions, duplicates and gaps", "Snapshots", "Replays"):
        assert f">{title}</h3>" in PAGE
    assert "**" not in PAGE
    assert "`" not in PAGE
