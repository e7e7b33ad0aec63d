"""What a change of the published documents breaks, for callers and for subscribers.

Callers may go on sending what they sent, and get nothing that they could not get before. Fields may
be added to answers and events, optional ones to requests, and calls, errors and event types; a new
major version (`info.version`, or the number in an event schema's `$id`) may break anything.

oasdiff 1.37, with the events wrapped as answers, does not take this module's place. Of 50 breaks
in tests/unit/contract/test_compatibility.py it passes seven: another operationId, another default, a
new status of success, a removed optional field of an answer or an event, and what `$id` says. It
refuses breaks under a new major version. It needs Go 1.26 and a minute to build; Debian 12 has 1.19.
"""

from collections.abc import Iterator
from typing import Any

from tests.contract.subsets import Subsets

Document = dict[str, Any]


class OpenApiChange:
    """The change from one OpenAPI document to the next."""

    def __init__(self, before: Document, after: Document) -> None:
        self._before = before
        self._after = after
        old, new = Resolver(before), Resolver(after)
        self._old, self._new = old, new
        self._requests = Subsets(old.look_up, new.look_up)
        self._responses = Subsets(new.look_up, old.look_up)

    def breaks(self) -> Iterator[str]:
        """Yield each change that breaks callers."""
        if _major(self._after) > _major(self._before):
            return
        yield from self._schemas()
        for path, calls in self._before["paths"].items():
            for method, old in calls.items():
                name = f"{method.upper()} {path}"
                new = self._after["paths"].get(path, {}).get(method)
                if new is None:
                    yield f"{name}: is gone"
                else:
                    yield from self._call(old, new, name)

    def _schemas(self) -> Iterator[str]:
        before, after = (each["components"]["schemas"] for each in (self._before, self._after))
        for name, schema in before.items():
            if name in after:
                yield from _other_references(schema, after[name], f"schema {name}")
            else:
                yield f"schema {name}: is gone, and with it a class of generated clients"

    def _call(self, old: Document, new: Document, name: str) -> Iterator[str]:
        for named in ("operationId", "tags"):  # methods and classes of generated clients
            if old[named] != new[named]:
                yield f"{name}: {named} differs"
        for way in old["security"]:
            if way not in new["security"]:
                yield f"{name}: the key or scope {way} is not enough any more"
        if old["security"] == [] != new["security"]:
            yield f"{name}: needs a key now"
        yield from self._parameters(old, new, name)
        yield from self._body(old.get("requestBody", {}), new.get("requestBody", {}), name)
        yield from self._answers(old["responses"], new["responses"], name)

    def _parameters(self, old: Document, new: Document, name: str) -> Iterator[str]:
        ours, theirs = self._old.parameters(old), self._new.parameters(new)
        for key, parameter in theirs.items():
            if parameter.get("required") and not ours.get(key, {}).get("required"):
                yield f"{name} {key}: is required now"
        for key, parameter in ours.items():
            if key not in theirs:
                yield f"{name} {key}: is gone"
                continue
            before, after = parameter["schema"], theirs[key]["schema"]
            if before.get("default") != after.get("default"):
                yield f"{name} {key}: its default differs"
            yield from self._requests.differences(before, after, f"{name} {key}")

    def _body(self, old: Document, new: Document, name: str) -> Iterator[str]:
        if new.get("required") and not old.get("required"):
            yield f"{name}: a body is required now"
        for media_type, content in old.get("content", {}).items():
            if media_type not in new.get("content", {}):
                yield f"{name}: does not take {media_type} any more"
                continue
            schema = new["content"][media_type]["schema"]
            yield from self._requests.differences(content["schema"], schema, f"{name} body")
            yield from _other_references(content["schema"], schema, f"{name} body")

    def _answers(self, old: Document, new: Document, name: str) -> Iterator[str]:
        for status in sorted(new.keys() - old.keys()):
            if status.startswith("2"):
                yield f"{name} {status}: is a new kind of success"
        for status, response in old.items():
            if status in new:
                yield from self._answer(response, new[status], f"{name} {status}")
            elif status.startswith("2"):
                yield f"{name} {status}: is gone"

    def _answer(self, old: Document, new: Document, name: str) -> Iterator[str]:
        old, new = self._old.resolved(old), self._new.resolved(new)
        for header, reference in old.get("headers", {}).items():
            if header not in new.get("headers", {}):
                yield f"{name} {header}: is gone"
                continue
            before = self._old.resolved(reference)
            after = self._new.resolved(new["headers"][header])
            if before["required"] and not after["required"]:
                yield f"{name} {header}: may be absent now"
            yield from self._responses.differences(
                after["schema"], before["schema"], f"{name} {header}"
            )
        for media_type, content in old.get("content", {}).items():
            if media_type not in new.get("content", {}):
                yield f"{name}: is not {media_type} any more"
                continue
            other = new["content"][media_type]
            before, after = _narrowed(content), _narrowed(other)
            yield from self._responses.differences(after, before, f"{name} answer")
            before, after = content["schema"], other["schema"]
            yield from _removed(self._old.whole(before), self._new.whole(after), f"{name} answer")
            yield from _other_references(before, after, f"{name} answer")


def _narrowed(content: Document) -> Document:
    """Return the schema of an answer, for a problem with the status and the code of its example.

    All problems have one schema, since generators leave out the errors of a call whose schemas differ.
    """
    schema: Document = content["schema"]
    problems = [each["value"] for each in content.get("examples", {}).values()]
    if not any("request_id" in each for each in problems):
        return schema
    ((status, code),) = {(each["status"], each["code"]) for each in problems}
    return {**schema, "properties": {"status": {"const": status}, "code": {"const": code}}}


class Resolver:
    """Resolves the references in a document."""

    def __init__(self, document: Document) -> None:
        self._document = document

    def look_up(self, reference: str) -> Document:
        """Return the value that a reference names."""
        found = self._document
        for part in reference.removeprefix("#/").split("/"):
            found = found[part]
        return found

    def resolved(self, thing: Document) -> Document:
        """Return a value, or the value that it refers to."""
        return self.look_up(thing["$ref"]) if "$ref" in thing else thing

    def whole(self, schema: Any) -> Any:  # noqa: ANN401 - any part of a schema
        """Return a schema with all its references resolved."""
        if isinstance(schema, list):
            return [self.whole(part) for part in schema]
        if not isinstance(schema, dict):
            return schema
        beside = {name: self.whole(part) for name, part in schema.items() if name != "$ref"}
        return (
            {**self.whole(self.look_up(schema["$ref"])), **beside} if "$ref" in schema else beside
        )

    def parameters(self, call: Document) -> dict[str, Document]:
        """Return a call's parameters by place and name."""
        found = [self.resolved(parameter) for parameter in call["parameters"]]
        return {f"{each['in']} {each['name']}": each for each in found}


def event_breaks(before: Document, after: Document) -> Iterator[str]:
    """Yield each change that breaks subscribers of an event type."""
    old_name, _, old_version = before["$id"].rpartition(":")
    new_name, _, new_version = after["$id"].rpartition(":")
    if old_name == new_name and int(new_version) > int(old_version):
        return
    if before["$id"] != after["$id"]:
        yield f"{before['$id']}: became {after['$id']}"
    compare = Subsets(Resolver(after).look_up, Resolver(before).look_up)
    yield from compare.differences(after, before, old_name)
    yield from _removed(before, after, old_name)


def _removed(before: Any, after: Any, where: str) -> Iterator[str]:  # noqa: ANN401 - any part of a schema
    """Yield removed fields of answers, optional ones included."""
    if isinstance(before, dict) and isinstance(after, dict):
        ours, theirs = before.get("properties", {}), after.get("properties", {})
        for name in ours:
            if name not in theirs:
                yield f"{where}.{name}: is gone"
            else:
                yield from _removed(ours[name], theirs[name], f"{where}.{name}")
        yield from _removed(before.get("items"), after.get("items"), f"{where}[]")
        for old, new in zip(before.get("anyOf", []), after.get("anyOf", []), strict=False):
            yield from _removed(old, new, where)


def _other_references(before: Any, after: Any, where: str) -> Iterator[str]:  # noqa: ANN401 - any part of a schema
    """Yield places of two unresolved schemas at which generated clients would have another class.

    An inline schema may become a reference: clients generated before keep their own class for it.
    """
    if not isinstance(before, dict) or not isinstance(after, dict):
        return
    for reference in sorted(_references(before) - _references(after)):
        yield f"{where}: does not refer to {reference} any more"
    ours, theirs = before.get("properties", {}), after.get("properties", {})
    for name in sorted(ours.keys() & theirs.keys()):
        yield from _other_references(ours[name], theirs[name], f"{where}.{name}")
    for keyword, place in (("items", "[]"), ("additionalProperties", ".*")):
        yield from _other_references(before.get(keyword), after.get(keyword), where + place)
    for old, new in zip(_members(before), _members(after), strict=False):
        if "$ref" not in old:
            yield from _other_references(old, new, where)


def _members(schema: Document) -> list[Document]:
    return [each for name in ("allOf", "anyOf", "oneOf") for each in schema.get(name, [])]


def _references(schema: Document) -> set[str]:
    """Return the references of a schema and of its alternatives."""
    return {each["$ref"] for each in [schema, *_members(schema)] if "$ref" in each}


def _major(document: Document) -> int:
    return int(document["info"]["version"].partition(".")[0])
