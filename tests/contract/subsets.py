"""Decides whether all values of one JSON Schema are valid for another; an undecided case is a difference."""

from collections.abc import Callable, Iterator
from typing import Any, Final

Schema = dict[str, Any]
Resolve = Callable[[str], Schema]

ANNOTATIONS: Final = {"$id", "$schema", "title", "description", "example", "examples", "default"}
LOWER_BOUNDS: Final = ("minimum", "exclusiveMinimum", "minLength", "minItems", "minProperties")
UPPER_BOUNDS: Final = ("maximum", "exclusiveMaximum", "maxLength", "maxItems", "maxProperties")
COMPARED: Final = {
    *ANNOTATIONS,
    *LOWER_BOUNDS,
    *UPPER_BOUNDS,
    "type",
    "enum",
    "const",
    "anyOf",
    "items",
    "properties",
    "required",
    "additionalProperties",
}

REWRITTEN: Final[tuple[tuple[Schema, Schema], ...]] = (
    # One pattern in place of two. Both are literals: if the service's pattern changes, they differ again.
    (
        {
            "pattern": r"^[A-Za-z0-9][A-Za-z0-9_.\-]{0,127}$",
            "allOf": [{"pattern": "^(ful_|ship_|ast_|mfst_|item_)."}],
        },
        {
            "pattern": r"^(ful_[A-Za-z0-9_.\-]{1,124}|ship_[A-Za-z0-9_.\-]{1,123}|ast_[A-Za-z0-9_.\-]{1,124}"
            r"|mfst_[A-Za-z0-9_.\-]{1,123}|item_[A-Za-z0-9_.\-]{1,123})$"
        },
    ),
    # The outcome of an operation says the same in words: generators do not read it beside a reference.
    ({"oneOf": [{"required": ["link", "restored"]}, {"required": ["problem"]}]}, {}),
)
"""Keywords of the last release, with those that mean the same now."""


class Subsets:
    """Compares schemas of two documents, each with its own references."""

    def __init__(self, resolve_part: Resolve, resolve_whole: Resolve) -> None:
        self._resolve_part = resolve_part
        self._resolve_whole = resolve_whole

    def differences(self, part: Schema, whole: Schema, where: str) -> Iterator[str]:
        """Yield each place where the first schema allows, or may allow, values that the second forbids."""
        part = _resolved(part, self._resolve_part)
        whole = _resolved(whole, self._resolve_whole)
        if "anyOf" in part or "anyOf" in whole:
            yield from self._options(part, whole, where)
            return
        yield from _values(part, whole, where)
        yield from _bounds(part, whole, where)
        for keyword in sorted(whole.keys() - COMPARED):
            if part.get(keyword) != whole[keyword]:
                yield f"{where}: {keyword} differs"
        if "items" in whole:
            yield from self.differences(part.get("items", {}), whole["items"], f"{where}[]")
        yield from self._properties(part, whole, where)

    def _options(self, part: Schema, whole: Schema, where: str) -> Iterator[str]:
        """Return the alternatives of a schema, each merged with what holds for all of them."""
        theirs = _options(whole)
        for option in _options(part):
            if all(any(self.differences(option, other, where)) for other in theirs):
                yield f"{where}: no option takes {option.get('type', 'other')} values such as it had"

    def _properties(self, part: Schema, whole: Schema, where: str) -> Iterator[str]:
        ours, theirs = part.get("properties", {}), whole.get("properties", {})
        required = set(part.get("required", []))
        for name in sorted(set(whole.get("required", [])) - required):
            yield f"{where}.{name}: is required on one side only"
        for name in sorted(ours.keys() & theirs.keys()):
            yield from self.differences(ours[name], theirs[name], f"{where}.{name}")
        if whole.get("additionalProperties") is False:
            for name in sorted(ours.keys() - theirs.keys()):
                yield f"{where}.{name}: is not taken"
            if part.get("additionalProperties") is not False:
                yield f"{where}: unknown fields are not taken"
        elif isinstance(whole.get("additionalProperties"), dict):
            more = part.get("additionalProperties", {})
            yield from self.differences(
                more if isinstance(more, dict) else {}, whole["additionalProperties"], f"{where}.*"
            )


def _resolved(schema: Schema, resolve: Resolve) -> Schema:
    """Return a schema with its reference resolved and its `allOf` merged."""
    merged: Schema = {}
    rest = []
    for member in [schema, *schema.get("allOf", [])]:
        kept = {name: value for name, value in member.items() if name not in {"$ref", "allOf"}}
        if "$ref" in member:
            kept = _merged(_resolved(resolve(member["$ref"]), resolve), kept)
        if _agree(merged, kept):
            merged = _merged(merged, kept)
        else:
            rest.append(kept)
    merged |= {"allOf": rest} if rest else {}
    for old, new in REWRITTEN:
        if old.items() <= merged.items():
            merged = {n: value for n, value in merged.items() if n not in old} | new
    return merged


def _agree(one: Schema, other: Schema) -> bool:
    """Whether two schemas have no keyword in common that cannot be merged."""
    both = (one.keys() & other.keys()) - ANNOTATIONS - {"properties", "required"}
    return all(one[name] == other[name] for name in both)


def _merged(one: Schema, other: Schema) -> Schema:
    merged = {**one, **other}
    if "required" in one and "required" in other:
        merged["required"] = sorted({*one["required"], *other["required"]})
    if "properties" in one and "properties" in other:
        ours, theirs = one["properties"], other["properties"]
        merged["properties"] = {
            name: {**ours.get(name, {}), **theirs.get(name, {})} for name in {**ours, **theirs}
        }
    return merged


def _options(schema: Schema) -> list[Schema]:
    """Compare each option of the first schema with the options of the second."""
    common = {name: value for name, value in schema.items() if name != "anyOf"}
    return [{**common, **option} for option in schema.get("anyOf", [{}])]


def _values(part: Schema, whole: Schema, where: str) -> Iterator[str]:
    kinds, allowed = _kinds(part), _kinds(whole)
    if allowed and not (kinds and kinds <= allowed):
        yield f"{where}: type {sorted(kinds) or 'any'} is not within {sorted(allowed)}"
    ours, theirs = _enumerated(part), _enumerated(whole)
    if theirs is not None and (ours is None or not ours <= theirs):
        more = "any" if ours is None else ", ".join(sorted(ours - theirs))
        yield f"{where}: {more} is not among the values {', '.join(sorted(theirs))}"


def _kinds(schema: Schema) -> set[str]:
    kinds = schema.get("type", [])
    found = {kinds} if isinstance(kinds, str) else set(kinds)
    return found | {"integer"} if "number" in found else found


def _enumerated(schema: Schema) -> set[str] | None:
    if "const" in schema:
        return {repr(schema["const"])}
    return {repr(value) for value in schema["enum"]} if "enum" in schema else None


def _bounds(part: Schema, whole: Schema, where: str) -> Iterator[str]:
    for bound in LOWER_BOUNDS:
        if bound in whole and part.get(bound, float("-inf")) < whole[bound]:
            yield f"{where}: {bound} {part.get(bound)} is below {whole[bound]}"
    for bound in UPPER_BOUNDS:
        if bound in whole and part.get(bound, float("inf")) > whole[bound]:
            yield f"{where}: {bound} {part.get(bound)} is above {whole[bound]}"
