"""Entity tags in If-Match and If-None-Match (RFC 9110, sections 8.8.3, 13.1.1 and 13.1.2)."""

import re
from collections.abc import Mapping
from typing import Final

from service.core.preconditions import Preconditions, Tags
from service.edge.calls.problems import EdgeError, FieldError

_element = re.compile(rb'[ \t,]*((?:W/)?"([\x21\x23-\x7e\x80-\xff]*)")[ \t]*(?=,|\Z)').match

# Proxies that compress mark the tag: nginx makes it weak, Apache and Caddy append the coding. Our tags
# are numbers, and name a revision of the data rather than the bytes of an answer.
_revision = re.compile(rb"([0-9]{1,19})(?:(?:--?|;)(?:gzip|br|zstd|deflate))?\Z").match

_MALFORMED: Final = 'has to be `*`, or a list of entity tags like "7" in double quotes'


def preconditions_of(fields: Mapping[bytes, bytes]) -> Preconditions | None:
    """Return what a call's fields require of the document; None if they require nothing.

    Weak tags count as strong ones in If-Match too, so that a proxy that weakens the tags of what it
    compresses does not make every conditional write fail.

    Raises:
        EdgeError: `validation_error`, a field is malformed.
    """
    if b"if-match" not in fields and b"if-none-match" not in fields:
        return None
    return Preconditions(_tags(fields, "If-Match"), _tags(fields, "If-None-Match"))


def _tags(fields: Mapping[bytes, bytes], name: str) -> Tags | None:
    value = fields.get(name.lower().encode())
    if value is None:
        return None
    value = value.strip(b" \t")
    if value == b"*":
        return Tags(star=True)
    opaque = opaque_tags(value)
    if not opaque:
        error = FieldError(name, _MALFORMED)
        raise EdgeError("validation_error", f"{name}: {_MALFORMED}", errors=[error])
    matches = map(_revision, opaque)
    return Tags(frozenset(int(match[1]) for match in matches if match is not None))


def opaque_tags(value: bytes) -> list[bytes]:
    """Return what stands in the quotes of each tag of a list; nothing if the list is malformed."""
    found = []
    position = 0
    while (element := _element(value, position)) is not None:
        found.append(element[2])
        position = element.end()
    return [] if value[position:].strip(b" \t,") else found
