"""Reading a request's body: its size, its type, its form; and saying all that is wrong with it."""

import asyncio
import difflib
from collections.abc import Iterator, Mapping
from typing import Any, Final, TypeVar

import msgspec
from msgspec import Struct
from starlette.types import Receive

from service.edge.problems import EdgeError, FieldError

MAX_BYTES: Final = 1 << 20
TIMEOUT_S: Final = 10.0
MAX_ERRORS: Final = 20

T = TypeVar("T")


class Disconnected(Exception):  # noqa: N818 - nobody is left to answer
    """The caller went away before the body was complete."""


async def read_body(headers: Mapping[bytes, bytes], receive: Receive) -> bytes:
    """Return the whole body.

    Raises:
        EdgeError: it is too large, or does not come to an end.
        Disconnected: the caller has gone.
    """
    length = headers.get(b"content-length", b"")
    if length.isdigit() and int(length) > MAX_BYTES:
        raise _too_large()
    message = await receive()
    if message["type"] == "http.request" and not message.get("more_body"):
        body: bytes = message.get("body", b"")
        if len(body) > MAX_BYTES:
            raise _too_large()
        return body
    try:
        async with asyncio.timeout(TIMEOUT_S):
            return await _read_on(message, receive)
    except TimeoutError:
        raise EdgeError(
            "request_timeout", f"the body did not end within {TIMEOUT_S:.0f} s"
        ) from None


async def _read_on(message: Any, receive: Receive) -> bytes:  # noqa: ANN401 - an ASGI message
    """Read the chunks of a body that came in several."""
    chunks = []
    size = 0
    while True:
        if message["type"] == "http.disconnect":
            raise Disconnected
        chunks.append(message.get("body", b""))
        size += len(chunks[-1])
        if size > MAX_BYTES:
            raise _too_large()
        if not message.get("more_body"):
            return b"".join(chunks)
        message = await receive()


def check_content_type(headers: Mapping[bytes, bytes]) -> None:
    """Accept JSON in UTF-8.

    Raises:
        EdgeError: `unsupported_media_type`.
    """
    given = headers.get(b"content-type", b"")
    if given == b"application/json":
        return
    essence, _, parameters = given.lower().partition(b";")
    charset = parameters.strip().removeprefix(b"charset=").strip(b'" ')
    if essence.strip() != b"application/json" or charset not in {b"", b"utf-8", b"utf8"}:
        raise EdgeError(
            "unsupported_media_type", "send the body as `Content-Type: application/json` in UTF-8"
        )


class BodyReader:
    """Decodes bodies into one struct type."""

    def __init__(self, shape: type[Struct]) -> None:
        self.shape = shape
        self._decode = msgspec.json.Decoder(shape).decode

    def decode(self, body: bytes) -> Any:  # noqa: ANN401 - an instance of the shape
        """Return the struct.

        Raises:
            EdgeError: `validation_error`, naming every field that is wrong (at most 20).
        """
        try:
            return self._decode(body)
        except msgspec.ValidationError as error:
            errors = list(_wrong_fields(body, self.shape)) or [_field_error(error)]
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            why = "nested too deeply" if isinstance(error, RecursionError) else str(error)
            raise EdgeError("validation_error", f"the body is not JSON: {why}") from None
        detail = (
            f"{len(errors)} fields are wrong"
            if len(errors) > 1
            else f"{errors[0].field}: {errors[0].message}"
        )
        raise EdgeError("validation_error", detail, errors=errors[:MAX_ERRORS])


def _wrong_fields(body: bytes, shape: type[Struct]) -> Iterator[FieldError]:
    """Walk a body that was refused a second time, since msgspec stops at the first error."""
    value = msgspec.json.decode(body)
    if isinstance(value, dict):
        yield from _wrong_in_object(value, shape, "")


def _wrong_in_object(value: dict[str, Any], shape: type[Struct], path: str) -> Iterator[FieldError]:
    fields = {field.encode_name: field for field in msgspec.structs.fields(shape)}
    for name in value.keys() - fields.keys():
        nearest = difflib.get_close_matches(name[:100], fields, n=1, cutoff=0.5)
        hint = f"; did you mean `{nearest[0]}`?" if nearest else f"; known are {', '.join(fields)}"
        yield FieldError(path + name[:100], f"unknown field{hint}")
    for name, field in fields.items():
        if name not in value:
            if field.required:
                yield FieldError(path + name, "is required")
            continue
        try:
            msgspec.convert(value[name], field.type)
        except msgspec.ValidationError as error:
            inner = _field_error(error)
            yield FieldError(path + name + inner.field, inner.message)


def _field_error(error: msgspec.ValidationError) -> FieldError:
    """Split msgspec's message into the place and what is wrong there."""
    message, _, place = str(error).partition(" - at `$")
    return FieldError(place.rstrip("`"), message)


def _too_large() -> EdgeError:
    return EdgeError("payload_too_large", f"the body is larger than {MAX_BYTES} bytes")
