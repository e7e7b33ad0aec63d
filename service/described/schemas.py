"""JSON Schemas (2020-12) of the structs that serve the requests."""

from collections.abc import Iterable, Mapping
from inspect import cleandoc
from typing import Any, Final

import msgspec

from service.edge.shapes.messages import PUBLISHED_PATTERN

Schema = dict[str, Any]

_COMPONENTS: Final = "#/components/schemas/"

DIALECT: Final = "https://json-schema.org/draft/2020-12/schema"

_ONLY_PYTHON: Final = r"(?!\n)"
"""Excludes a final newline, before which Python's `$` matches too. JSON Schema uses ECMA-262, whose `$`
matches at the end only."""


def components(
    types: Iterable[Any], others: Mapping[str, Any]
) -> tuple[list[Schema], dict[str, Schema]]:
    """Return a schema for each type, and those of the structs in them by name, for OpenAPI.

    Types that are no structs get the names in `others`. Generators make one class of each name, and for a
    schema without a name another one wherever it occurs. Fields have no defaults: some generators require
    or send a field that has one.
    """
    structs = list(types)
    made, found = msgspec.json.schema_components(
        [*structs, *others.values()], ref_template=f"{_COMPONENTS}{{name}}"
    )
    for schema in found.values():
        for field in schema["properties"].values():
            field.pop("default", None)
    schemas = [tidied(schema) for schema in made]
    named = dict(zip(others, schemas[len(structs) :], strict=True))
    named |= {name: with_references(tidied(schema), named) for name, schema in found.items()}
    return schemas[: len(structs)], named


def inlined(shape: Any) -> Schema:  # noqa: ANN401 - a type
    """Return the schema of a type in one piece, without references."""
    (schema,), named = msgspec.json.schema_components([shape], ref_template="{name}")
    whole: Schema = tidied(_without_references(schema, named))
    return whole


def with_references(part: Any, named: dict[str, Schema]) -> Any:  # noqa: ANN401 - any part of a schema
    """Return a part of a schema with references in place of the schemas that have a name."""
    for name, schema in named.items():
        if part == schema:
            return {"$ref": f"{_COMPONENTS}{name}"}
    if isinstance(part, list):
        return [with_references(each, named) for each in part]
    if isinstance(part, dict):
        return {name: with_references(each, named) for name, each in part.items()}
    return part


def without_null(schema: Schema) -> Schema:
    """Return the schema without the alternative null, which a query string cannot have."""
    options = [option for option in schema.get("anyOf", []) if option != {"type": "null"}]
    rest = {name: value for name, value in schema.items() if name != "anyOf"}
    if rest.get("default", ...) is None:
        del rest["default"]
    return {**rest, **options[0]} if len(options) == 1 else schema


def tidied(schema: Any) -> Any:  # noqa: ANN401 - any part of a schema
    """Return the schema in the form that most tools support.

    Descriptions are not indented: before Python 3.13 a docstring keeps the indentation of its lines.
    Patterns are those of ECMA-262; constants have a type. An object whose fields are not known says that
    it takes any: some generators take none otherwise.
    """
    if isinstance(schema, list):
        return [tidied(part) for part in schema]
    if not isinstance(schema, dict):
        return schema
    tidy = {name: tidied(part) for name, part in schema.items()}
    if isinstance(description := tidy.get("description"), str):
        tidy["description"] = cleandoc(description)
    if isinstance(pattern := tidy.get("pattern"), str):
        tidy["pattern"] = pattern.replace(_ONLY_PYTHON, "")
    if PUBLISHED_PATTERN in tidy:
        tidy["pattern"] = tidy.pop(PUBLISHED_PATTERN)
    if tidy.get("type") == "object" and not tidy.keys() & {"properties", "additionalProperties"}:
        tidy["additionalProperties"] = True
    if isinstance(values := tidy.get("enum"), list) and "type" not in tidy:
        kinds = {type(value) for value in values}
        tidy = {"type": "integer" if kinds == {int} else "string", **tidy}
    if tidy.get("required") == []:
        del tidy["required"]
    return tidy


def _without_references(schema: Any, named: dict[str, Schema]) -> Any:  # noqa: ANN401 - any part of a schema
    if isinstance(schema, list):
        return [_without_references(part, named) for part in schema]
    if not isinstance(schema, dict):
        return schema
    beside = {n: _without_references(part, named) for n, part in schema.items() if n != "$ref"}
    if "$ref" not in schema:
        return beside
    target: Schema = _without_references(named[schema["$ref"]], named)
    return {**target, **beside}
