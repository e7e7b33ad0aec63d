"""Entity tags in If-Match and If-None-Match (RFC 9110, sections 8.8.3, 13.1.1 and 13.1.2)."""

import re
from collections.abc import Mapping
from typing import Final

from service.core.preconditions import Preconditions, Tags
from service.edge.calls.problems import EdgeError, FieldError

_element = re.compile(rb'[ \t,]*((?:W/)?"([\x21\x23-\x7e\x80-\xff]*)")[ \t]*(?=,|\Z)').match

# Proxies that compress an answer change its tag: nginx makes it weak, Apache and Caddy append the
# coding. The service's tags are numbers that name a revision of the data, not the bytes of an answer,
# so both forms count as the tag.
_revision = re.compile(rb"([0-9]{1,19})(?:(?:--?|;)(?:gzip|br|zstd|deflate))?\Z").match

_MALFORMED: Final = 'has to be `*`, or a list of entity tags like "7" in double quotes'


def preconditions_of(headers: Mapping[bytes, bytes]) -> Preconditions:
    """Return what If-Match and If-None-Match require of the document.

    Weak tags count as strong ones in If-Match too. Otherwise a proxy that weakens the tags of what it
    compresses would make every conditional write fail.

    Raises:
        EdgeError: `validation_error`, a header is malformed.
    """
    return Preconditions(_tags(headers, "If-Match"), _tags(headers, "If-None-Match"))


def _tags(headers: Mapping[bytes, bytes], name: str) -> Tags | None:
    value = headers.get(name.lower().encode())
    if value is None:
        return None
    value = value.strip(b" \t")
    if value == b"*":
        return Tags(star=True)
    opaque = _opaque_tags(value)
    if not opaque:
        error = FieldError(name, _MALFORMED)
        raise EdgeError("validation_error", f"{name}: {_MALFORMED}", errors=[error])
    matches = map(_revision, opaque)
    return Tags(frozenset(int(match[1]) for match in matches if match is not None))


def _opaque_tags(value: bytes) -> list[bytes]:
    """Return the text in the quotes of each tag of a list; an empty list if it is malformed."""
    found = []
    position = 0
    while (element := _element(value, position)) is not None:
        found.append(element[2])
        position = element.end()
    return [] if value[position:].strip(b" \t,") else found
