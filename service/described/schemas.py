"""JSON Schemas (2020-12) of the structs that serve the requests."""

from collections.abc import Iterable
from typing import Any, Final

import msgspec

Schema = dict[str, Any]

DIALECT: Final = "https://json-schema.org/draft/2020-12/schema"

_ONLY_PYTHON: Final = r"(?!\n)"
"""Excludes a final newline, before which Python's `$` matches too. JSON Schema uses ECMA-262, whose `$`
matches at the end only."""


def components(types: Iterable[Any]) -> tuple[list[Schema], dict[str, Schema]]:
    """Return a schema for each type, and those of the structs in them by name, for OpenAPI."""
    schemas, named = msgspec.json.schema_components(
        types, ref_template="#/components/schemas/{name}"
    )
    return [tidied(schema) for schema in schemas], {n: tidied(s) for n, s in named.items()}


def inlined(shape: Any) -> Schema:  # noqa: ANN401 - a type
    """Return the schema of a type in one piece, without references."""
    (schema,), named = msgspec.json.schema_components([shape], ref_template="{name}")
    whole: Schema = tidied(_without_references(schema, named))
    return whole


def without_null(schema: Schema) -> Schema:
    """Return the schema without the alternative null, which a query string cannot have."""
    options = [option for option in schema.get("anyOf", []) if option != {"type": "null"}]
    rest = {name: value for name, value in schema.items() if name != "anyOf"}
    if rest.get("default", ...) is None:
        del rest["default"]
    return {**rest, **options[0]} if len(options) == 1 else schema


def tidied(schema: Any) -> Any:  # noqa: ANN401 - any part of a schema
    """Return the schema in the form that most tools support: ECMA-262 patterns, `enum` with a type."""
    if isinstance(schema, list):
        return [tidied(part) for part in schema]
    if not isinstance(schema, dict):
        return schema
    tidy = {name: tidied(part) for name, part in schema.items()}
    if isinstance(pattern := tidy.get("pattern"), str):
        tidy["pattern"] = pattern.replace(_ONLY_PYTHON, "")
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
