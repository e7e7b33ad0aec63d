"""The page `/docs/events`: the AsyncAPI document as HTML without scripts."""

import json
import re
from collections.abc import Iterable, Iterator
from html import escape
from typing import Any, Final, NamedTuple

from service.described.schemas import Schema

_PAGE: Final = """\
<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<title>{title}</title>
<link rel="icon" type="image/png" href="favicon-32x32.png">
<link rel="stylesheet" href="events.css">
</head>
<body>
<a class="skip" href="#main">Skip to the content</a>
<header>
<h1>{title}</h1>
<p>Version {version}. <a href="../docs">The calls of the API</a> ·
<a href="../asyncapi.json">this page as an AsyncAPI document</a></p>
</header>
<nav aria-label="Contents">{index}</nav>
<main id="main" tabindex="-1">{sections}</main>
</body>
</html>
"""


class _Section(NamedTuple):
    """A section of the page, and its parts as the index lists them: anchors with their titles."""

    anchor: str
    title: str
    html: str
    parts: dict[str, str]


class _Field(NamedTuple):
    """A field of a message, with its path, such as `data.link.id`."""

    path: str
    schema: Schema
    required: bool


def events_page(document: dict[str, Any]) -> str:
    """Return the page of an AsyncAPI document whose messages have inlined schemas."""
    messages = _messages(document)
    sections = [
        _reading(document["info"]["description"]),
        _channels(document),
        _types(messages),
        _schemas(messages),
    ]
    return _PAGE.format(
        title=escape(document["info"]["title"]),
        version=escape(document["info"]["version"]),
        index=_items(map(_index_entry, sections)),
        sections="".join(
            f'<section aria-labelledby="{each.anchor}">'
            f'<h2 id="{each.anchor}">{each.title}</h2>{each.html}</section>'
            for each in sections
        ),
    )


def _messages(document: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """Return the messages of all channels, each once, by the name of its type."""
    return {message["name"]: message for message in document["components"]["messages"].values()}


def _reading(description: str) -> _Section:
    """Return the document's prose. Its second-level headings are the section's parts."""
    parts = dict.fromkeys(re.findall(r"^## (.+)$", description, re.MULTILINE))
    anchors = {_anchor(title): escape(title) for title in parts}
    return _Section("reading", "Reading the events", _prose(description), anchors)


def _channels(document: dict[str, Any]) -> _Section:
    channels = document["channels"]
    names = {id_: message["name"] for id_, message in document["components"]["messages"].items()}
    html = "".join(
        f'<h3 id="{_anchor(name)}">{escape(channel["title"])}</h3>'
        f"<p>Topic <code>{escape(channel['address'])}</code> by default.</p>"
        f"{_prose(channel['description'])}<p>Types of its messages:</p>"
        + _items(_link(names[id_]) for id_ in channel["messages"])
        for name, channel in channels.items()
    )
    parts = {_anchor(name): escape(channel["title"]) for name, channel in channels.items()}
    return _Section("channels", "Channels", html, parts)


def _types(messages: dict[str, dict[str, Any]]) -> _Section:
    html = "".join(f"<article>{_type(message)}</article>" for message in messages.values())
    return _Section("types", "Types of events", html, {_anchor(name): name for name in messages})


def _type(message: dict[str, Any]) -> str:
    """Return the description of a type: its key, an example, its fields and its headers."""
    name = message["name"]
    key = message["bindings"]["kafka"]["key"]["description"]
    example = json.dumps(message["examples"][0]["payload"], indent=2, ensure_ascii=False)
    return (
        f'<h3 id="{_anchor(name)}"><code>{name}</code></h3><p>{_inline(message["summary"])} '
        f'<a href="../schemas/{name}.json">JSON Schema of {name}</a></p>'
        f"<p><strong>Key.</strong> {_inline(key)}</p>"
        f"<details><summary>Example of {name}</summary>"
        f'<pre tabindex="0" role="region" aria-label="Example of {name}">'
        f"<code>{escape(example)}</code></pre></details>"
        + _table(f"Fields of {name}", _fields(message["payload"]))
        + _table(f"Headers of {name}", _fields(message["headers"]))
    )


def _schemas(messages: dict[str, dict[str, Any]]) -> _Section:
    rows = "".join(
        f'<tr><th scope="row">{_link(name)}</th><td><a href="../schemas/{name}.json">'
        f"<code>/schemas/{name}.json</code></a></td><td><code>"
        f"{escape(message['payload']['properties']['dataschema']['const'])}</code></td></tr>"
        for name, message in messages.items()
    )
    html = _captioned(
        "JSON Schemas of the types", ("Type", "Address", "<code>dataschema</code>"), rows
    )
    return _Section("schemas", "Schemas", html, {})


def _fields(schema: Schema, prefix: str = "") -> Iterator[_Field]:
    """Yield the fields of an object, each followed by its own fields."""
    for name, inner in schema.get("properties", {}).items():
        yield _Field(prefix + name, inner, name in schema.get("required", ()))
        yield from _fields(inner, f"{prefix}{name}.")


def _table(caption: str, fields: Iterable[_Field]) -> str:
    rows = "".join(
        f'<tr><th scope="row"><code>{escape(path).replace(".", ".<wbr>")}</code></th>'
        f'<td><span class="type">{_kind(schema)}{"" if required else ", optional"}</span>'
        f"{_inline(schema['description'])}</td></tr>"
        for path, schema, required in fields
    )
    return _captioned(caption, ("Name", "Type and meaning"), rows)


def _captioned(caption: str, columns: Iterable[str], rows: str) -> str:
    heads = "".join(f'<th scope="col">{column}</th>' for column in columns)
    return (
        f"<table><caption>{caption}</caption><thead><tr>{heads}</tr></thead>"
        f"<tbody>{rows}</tbody></table>"
    )


def _kind(schema: Schema) -> str:
    """Return the values that a field can have, in words."""
    if "anyOf" in schema:
        return " or ".join(map(_kind, schema["anyOf"]))
    if "const" in schema:
        return f"<code>{escape(json.dumps(schema['const']))}</code>"
    if "enum" in schema:
        return " or ".join(f"<code>{escape(json.dumps(each))}</code>" for each in schema["enum"])
    if "additionalProperties" in schema:
        return f"object of {_kind(schema['additionalProperties'])}s"
    of_format = {"uuid": ", UUID", "date-time": ", date and time (RFC 3339)"}
    return escape(schema["type"]) + of_format.get(schema.get("format", ""), "")


def _index_entry(section: _Section) -> str:
    entry = f'<a href="#{section.anchor}">{section.title}</a>'
    parts = [f'<a href="#{anchor}">{title}</a>' for anchor, title in section.parts.items()]
    return entry + _items(parts) if parts else entry


def _items(entries: Iterable[str]) -> str:
    return f"<ul>{''.join(f'<li>{entry}</li>' for entry in entries)}</ul>"


def _link(name: str) -> str:
    return f'<a href="#{_anchor(name)}"><code>{escape(name)}</code></a>'


def _anchor(title: str) -> str:
    return re.sub(r"[^A-Za-z0-9_.]+", "-", title)


def _prose(markdown: str) -> str:
    """Return paragraphs and second-level headings, the only blocks that the document's prose has."""
    blocks = markdown.strip().split("\n\n")
    return "".join(
        f'<h3 id="{_anchor(block[3:])}">{_inline(block[3:])}</h3>'
        if block.startswith("## ")
        else f"<p>{_inline(block)}</p>"
        for block in blocks
    )


def _inline(text: str) -> str:
    """Return the text with `code` as HTML."""
    return re.sub(r"`([^`]+)`", r"<code>\1</code>", escape(text, quote=False))
