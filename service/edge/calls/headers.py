"""Header lines of a request as fields, and the fields that have a syntax of their own.

A field whose lines are repeated is one field with their values joined by commas (RFC 9110, section
5.3). That is what the list-valued fields mean. A field with one value becomes malformed by it, and
is treated as such: no value is picked from several that a proxy may read in another order.
"""

import re
from collections.abc import Mapping, Sequence
from typing import Final

from service.edge.calls.problems import EdgeError, FieldError

Lines = Sequence[tuple[bytes, bytes]]

# RFC 3986, section 3.2.2, and a port; the host may be empty.
_is_host = re.compile(
    rb"(?:[A-Za-z0-9._~!$&'()*+,;=-]*(?:%[0-9A-Fa-f]{2}[A-Za-z0-9._~!$&'()*+,;=-]*)*"
    rb"|\[[0-9A-Fa-f:.]+\])(?::[0-9]*)?\Z"
).match

# RFC 9110, section 5.6.6; a parameter that is not well-formed is skipped.
_parameter = re.compile(
    rb"""[;\s]*(?:([!#$%&'*+.^_`|~0-9A-Za-z-]+)[ \t]*=[ \t]*("(?:[^"\\]|\\.)*"|[^;"]*)|[^;]+)""",
    re.DOTALL,
)

# W3C Trace Context, section 3.2: a later version may go on after the flags.
_traceparent = re.compile(rb"([0-9a-f]{2})-([0-9a-f]{32}-[0-9a-f]{16})-([0-9a-f]{2})(-.*)?\Z").match
_NO_TRACE: Final = b"0" * 32
_NO_PARENT: Final = b"0" * 16
_SAMPLED: Final = 1


def fields_of(lines: Lines) -> dict[bytes, bytes]:
    """Return the value of each field."""
    fields = dict(lines)
    if len(fields) == len(lines):
        return fields
    values: dict[bytes, list[bytes]] = {}
    for name, value in lines:
        values.setdefault(name, []).append(value)
    return {name: b", ".join(value) for name, value in values.items()}


def check_host(fields: Mapping[bytes, bytes], http_version: str) -> None:
    """See that there is one Host with a valid value (RFC 9112, section 3.2).

    Raises:
        EdgeError: `validation_error`.
    """
    host = fields.get(b"host")
    if host is None:
        if http_version == "1.0":
            return
        message = "is missing: HTTP/1.1 requires it"
    elif _is_host(host):
        return
    else:
        message = "has to be one host name or address, with or without a port"
    raise EdgeError("validation_error", f"Host: {message}", errors=[FieldError("Host", message)])


def charset_of(content_type: bytes) -> tuple[bytes, set[bytes]]:
    """Return the media type and every charset that a Content-Type names, in lower case."""
    media_type, _, rest = content_type.partition(b";")
    charsets = {
        value.strip(b'" \t').lower()
        for name, value in _parameter.findall(rest)
        if name.lower() == b"charset"
    }
    return media_type.strip().lower(), charsets


def traceparent_of(value: bytes) -> str | None:
    """Return a traceparent of version 00 (W3C Trace Context); None if the value is not valid.

    A later version is read by its first four fields, and of its flags only "sampled" is known.
    """
    if (found := _traceparent(value)) is None:
        return None
    version, ids, flags, more = found.groups()
    trace, _, parent = ids.partition(b"-")
    if version == b"ff" or trace == _NO_TRACE or parent == _NO_PARENT:
        return None
    if version == b"00":
        return None if more else value.decode()
    return f"00-{ids.decode()}-{int(flags, 16) & _SAMPLED:02x}"
