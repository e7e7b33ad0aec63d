"""Bodies and query strings, decoded into structs. The server bounds the time that a body takes."""

import re
from codecs import BOM_UTF8
from collections.abc import Mapping
from typing import Any, Final
from urllib.parse import parse_qsl

import msgspec
from msgspec import Struct, structs
from starlette.types import Receive

from service.edge.calls import validation
from service.edge.calls.call import Call
from service.edge.calls.problems import EdgeError, FieldError
from service.edge.calls.validation import unreadable, wrong_fields

MAX_BYTES: Final = 1 << 20
"""Bytes of a body."""
MAX_TEXTS: Final = 40_000
"""JSON strings of a body (names of fields, and values) outside `metadata`. 5,000 links have 30,000."""
MAX_PARAMETERS: Final = 50
"""Parameters of a query string."""

# A parameter of a media type (RFC 9110, section 5.6.6). A malformed one is matched without its name.
_parameter = re.compile(
    rb"""[;\s]*(?:([!#$%&'*+.^_`|~0-9A-Za-z-]+)[ \t]*=[ \t]*("(?:[^"\\]|\\.)*"|[^;"]*)|[^;]+)""",
    re.DOTALL,
)


class Disconnected(Exception):  # noqa: N818 - it is not answered, so it is no error
    """The caller closed the connection before the body was complete."""


class BodyReader:
    """Decodes JSON bodies into one struct type."""

    def __init__(self, shape: type[Struct]) -> None:
        self.shape = shape
        self._decode = msgspec.json.Decoder(shape).decode
        self._decode_parts = validation.parts_decoder(shape).decode
        fields = structs.fields(shape)
        self._stored = {each.encode_name for each in fields if validation.is_stored(each.type)}

    async def read(self, call: Call, receive: Receive) -> None:
        """Read the call's body, and keep it with the call.

        A byte order mark is dropped (RFC 8259, section 8.1).

        Raises:
            EdgeError: the body is missing, too large, or of another media type.
            Disconnected: the caller has closed the connection, or was refused by the server.
        """
        headers = call.headers
        length = headers.get(b"content-length", b"").strip(b"0")
        if not length and b"transfer-encoding" not in headers:
            raise unreadable("body", "is missing: send a JSON object, `{}` at the least")
        check_content_type(headers)
        call.body = (await read_body(headers, receive)).removeprefix(BOM_UTF8)

    def decode(self, body: bytes) -> Any:  # noqa: ANN401 - an instance of the shape
        """Return the struct.

        Raises:
            EdgeError: `validation_error`, naming each wrong field, at most 20; in a body of more than
                10,000 values, only the first one.
        """
        try:
            if body.count(b'"') > 2 * MAX_TEXTS:
                self._check_texts(body)
            try:
                return self._decode(body)
            except msgspec.ValidationError:
                errors = validation.errors_in_body(body, self.shape)
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            raise unreadable("body", f"is not JSON: {error}") from None
        except RecursionError:
            raise unreadable("body", "is nested too deeply") from None
        raise wrong_fields(errors)

    def _check_texts(self, body: bytes) -> None:
        """Refuse a body with more than MAX_TEXTS strings: decoding it would block the event loop.

        Raises:
            EdgeError: `validation_error`, naming the field with most of the strings.
        """
        try:
            parts = structs.asdict(self._decode_parts(body))
        except msgspec.ValidationError:
            return  # the body is no object, so decoding stops at its first byte
        texts = {name: _quotes(bytes(part)) // 2 for name, part in parts.items()}
        stored = sum(texts.pop(name) for name in self._stored)
        if _quotes(body) // 2 - stored <= MAX_TEXTS:
            return
        name = max(texts, key=texts.__getitem__)
        message = f"has more than {MAX_TEXTS} names and texts: send it in several calls"
        raise wrong_fields([FieldError(name if texts[name] > MAX_TEXTS else "body", message)])


class QueryReader:
    """Decodes query strings into one struct type."""

    def __init__(self, shape: type[Struct]) -> None:
        self.shape = shape

    def decode(self, query: bytes) -> Any:  # noqa: ANN401 - an instance of the shape
        """Return the struct.

        Raises:
            EdgeError: `validation_error`, naming every wrong parameter, at most 20.
        """
        values = _parameters(query) if query else {}
        try:
            query_of_shape = msgspec.convert(values, self.shape, strict=False)
        except msgspec.ValidationError:
            raise wrong_fields(validation.errors_in_query(values, self.shape)) from None
        # msgspec decodes "null" to None, which would mean the same as an absent parameter.
        if nulls := [name for name in values if getattr(query_of_shape, name) is None]:
            raise wrong_fields([FieldError(name, "cannot be null: leave it out") for name in nulls])
        return query_of_shape


async def read_body(headers: Mapping[bytes, bytes], receive: Receive) -> bytes:
    """Return the whole body.

    Raises:
        EdgeError: `payload_too_large`.
        Disconnected: the caller has closed the connection, or was refused by the server.
    """
    length = headers.get(b"content-length", b"")
    if length.isdigit() and int(length) > MAX_BYTES:
        raise _too_large()
    chunks: list[bytes] = []
    size = 0
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise Disconnected
        chunks.append(message.get("body", b""))
        size += len(chunks[-1])
        if size > MAX_BYTES:
            raise _too_large()
        if not message.get("more_body"):
            return b"".join(chunks)


def check_content_type(headers: Mapping[bytes, bytes]) -> None:
    """Accept JSON in UTF-8 without a content coding; parameters other than charset are ignored.

    Raises:
        EdgeError: `unsupported_media_type`.
    """
    codings = headers.get(b"content-encoding", b"")
    if codings and {each.strip().lower() for each in codings.split(b",")} - {b"", b"identity"}:
        raise EdgeError(
            "unsupported_media_type",
            "the body has a content coding: send it without one, and without `Content-Encoding`",
            headers=((b"accept-encoding", b"identity"),),
        )
    if headers.get(b"transfer-encoding", b"chunked").lower() != b"chunked":
        raise EdgeError(
            "unsupported_media_type",
            "the body has a transfer coding besides chunked: send it without one",
        )
    given = headers.get(b"content-type", b"")
    if given == b"application/json":
        return
    media_type, _, rest = given.partition(b";")
    parameters = _parameter.findall(rest)
    charsets = {
        value.strip(b'" \t').lower() for name, value in parameters if name.lower() == b"charset"
    }
    if media_type.strip().lower() != b"application/json" or charsets - {b"", b"utf-8", b"utf8"}:
        raise EdgeError(
            "unsupported_media_type", "send the body as `Content-Type: application/json` in UTF-8"
        )


def _too_large() -> EdgeError:
    return EdgeError("payload_too_large", f"the body is larger than {MAX_BYTES} bytes")


def _quotes(json: bytes) -> int:
    """Return the number of quotes that begin or end a string."""
    return json.replace(b"\\\\", b"").replace(b'\\"', b"").count(b'"')


def _parameters(query: bytes) -> dict[str, str]:
    try:
        pairs = parse_qsl(
            query.decode("ascii"),
            keep_blank_values=True,
            errors="strict",
            max_num_fields=MAX_PARAMETERS,
        )
    except ValueError:
        message = f"is not percent-encoded UTF-8 of at most {MAX_PARAMETERS} parameters"
        raise unreadable("query", message) from None
    values = dict(pairs)
    if len(values) < len(pairs):
        names = [name for name, _ in pairs]
        twice = sorted({name[: validation.MAX_NAME] for name in names if names.count(name) > 1})
        raise wrong_fields([FieldError(name, "is given twice") for name in twice])
    return values
