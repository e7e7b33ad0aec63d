"""Headers of requests and responses, and the paths' parameters, as OpenAPI describes them."""

from typing import Annotated, Any, Final

from msgspec import Meta

from service.core.events import EventType
from service.core.ids import LINK_ID_PATTERN
from service.described.schemas import Schema, inlined
from service.edge.shapes.messages import EntityType, Id

REQUEST_ID: Final[Schema] = {
    "type": "string",
    "pattern": r"^[A-Za-z0-9_.\-]{1,128}$",
    "example": "req_01K94V7RZ7N0A9M3T8Q4E2C6BX",
}

LinkId = Annotated[
    str,
    Meta(
        pattern=LINK_ID_PATTERN,
        description="The link's id in either form.",
        examples=["dlnk_01jtbccjstfrevk8hzhgegwpkj"],
    ),
]

PATH_PARAMETERS: Final[dict[str, Any]] = {
    "id": Annotated[Id, Meta(description="The document's id.", examples=["doc_01HY1"])],
    "link_id": LinkId,
    "type": Annotated[EntityType, Meta(description="The entity's type.", examples=["deal"])],
    "entity_id": Annotated[Id, Meta(description="The entity's id.", examples=["deal_01HY1"])],
    "event_type": Annotated[
        EventType, Meta(description="The event's type.", examples=["document.linked"])
    ],
}
"""The parameters of paths, by their name in the routes."""


def _request_header(name: str, description: str, schema: Schema) -> Schema:
    return {"name": name, "in": "header", "description": description, "schema": schema}


REQUEST_HEADERS: Final[dict[str, Schema]] = {
    "IdempotencyKey": _request_header(
        "Idempotency-Key",
        "1 to 255 visible characters, such as a UUID. The first success is answered again for 24 h; "
        "the same key with another query string or body is refused (422).",
        {"type": "string", "pattern": "^[!-~]{1,255}$"},
    ),
    "IfMatch": _request_header(
        "If-Match",
        "The document's `ETag` as last seen, or several of them: any other revision is refused (412). "
        "`*`: the document has to exist. A tag that a proxy has weakened counts as the strong one.",
        {"type": "string"},
    ),
    "IfNoneMatch": _request_header(
        "If-None-Match",
        "The `ETag` of what you have, or several of them: 304 if it is unchanged.",
        {"type": "string"},
    ),
    "IfNoneMatchWrite": _request_header(
        "If-None-Match",
        "`*`: refused (412) if the document exists. Entity tags: refused if it is at one of them. "
        "If-Match counts first.",
        {"type": "string"},
    ),
    "IfMatchEntity": _request_header(
        "If-Match",
        "`*`: refused (412) if the entity does not exist. Entities have no `ETag`, so any other value "
        "is refused.",
        {"type": "string"},
    ),
    "IfNoneMatchEntity": _request_header(
        "If-None-Match",
        "`*`: refused (412) if the entity exists.",
        {"type": "string"},
    ),
    "RequestId": _request_header(
        "X-Request-ID",
        "Your id of this call: 1 to 128 of `A-Z a-z 0-9 _ - .`, or the service makes one. It is in "
        "the response, in the log and in the events.",
        {"type": "string"},
    ),
    "Traceparent": _request_header(
        "traceparent",
        "W3C Trace Context, handed on to the events as version 00: a later version is read by its "
        "first four fields. An invalid one, and one in several lines, is ignored. A service that exports "
        "traces hands on the context of its own span, a child of yours.",
        {"type": "string"},
    ),
    "Tracestate": _request_header(
        "tracestate",
        "W3C Trace Context, handed on to the events with a valid `traceparent`. An invalid one, and one "
        "of more than 512 characters, is ignored.",
        {"type": "string"},
    ),
}
"""The headers by their names in components.parameters. They have no examples: Swagger UI would send them."""

EVERY_CALL: Final = ("RequestId", "Traceparent", "Tracestate")


def _header(description: str, schema: Schema, *, required: bool = True) -> Schema:
    return {"description": description, "required": required, "schema": schema}


_COUNT: Final[Schema] = {"type": "integer", "minimum": 0}

RESPONSE_HEADERS: Final[dict[str, Schema]] = {
    "X-Request-ID": _header("The call's id.", REQUEST_ID),
    "X-RateLimit-Limit": _header("Calls in a window.", _COUNT),
    "X-RateLimit-Remaining": _header("Calls left in this window.", _COUNT),
    "X-RateLimit-Reset": _header("When the window ends, in seconds since 1970.", _COUNT),
    "RateLimit-Policy": _header(
        'The same as the IETF draft has it: `"default";q=1000;w=60`.', {"type": "string"}
    ),
    "RateLimit": _header(
        'The same as the IETF draft has it: `"default";r=999;t=42`.', {"type": "string"}
    ),
    "Retry-After": _header("Seconds to wait before the next try.", {**_COUNT, "minimum": 1}),
    "WWW-Authenticate": _header("How to send a key.", {"type": "string"}),
    "Accept-Encoding": _header(
        "Where a content coding was the reason: `identity`.", {"type": "string"}, required=False
    ),
    "Allow": _header("The methods that the path takes.", {"type": "string"}),
    "ETag": _header(
        "The document's revision, for If-Match; not on a replayed answer.",
        {"type": "string", "pattern": '^"[0-9]+"$', "example": '"7"'},
        required=False,
    ),
    "Link": _header(
        'The next page, if this one is full: `<?…>; rel="next"` (RFC 8288), relative to the request.',
        {"type": "string"},
        required=False,
    ),
    "Next-Cursor": _header(
        "The value of `cursor` for the next page, if this one is full: the same as in `Link`. Send it with "
        "the same filters.",
        {"type": "string", "pattern": LINK_ID_PATTERN},
        required=False,
    ),
    "Idempotent-Replayed": _header(
        "That this answer was given before, to the same Idempotency-Key.",
        {"type": "string", "const": "true"},
        required=False,
    ),
}

CACHING_HEADERS: Final = {
    "ETag": _header("Of this text, for If-None-Match.", {"type": "string"}),
    "Cache-Control": _header("For how long it may be kept.", {"type": "string"}),
}
"""Headers of responses that clients may cache."""

OF_A_KEY: Final = (
    "X-RateLimit-Limit",
    "X-RateLimit-Remaining",
    "X-RateLimit-Reset",
    "RateLimit-Policy",
    "RateLimit",
)
"""Headers of every response to a known key."""


def references(*names: str) -> Schema:
    """Return a response's headers."""
    return {name: {"$ref": f"#/components/headers/{name}"} for name in names}


def path_parameter(name: str) -> Schema:
    """Describe a parameter of a path."""
    schema = inlined(PATH_PARAMETERS[name])
    description = schema.pop("description")
    example = schema.pop("examples")[0]
    return {
        "name": name,
        "in": "path",
        "required": True,
        "description": description,
        "schema": schema,
        "example": example,
    }
