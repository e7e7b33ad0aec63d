"""OpenAPI links: which call takes its parameters from the response of another one."""

from typing import Any, Final, NamedTuple


class Relation(NamedTuple):
    """From the successful responses of one call to a next call, with the sources of its parameters."""

    source: str
    statuses: tuple[str, ...]
    target: str
    parameters: dict[str, str]


_ID: Final = {"id": "$response.body#/data/id"}
_SAME_ID: Final = {"id": "$request.path.id"}
_BOTH: Final = ("200", "201")
_NAMED_LINK: Final = _SAME_ID | {"link_id": "$response.body#/data/link_id"}
_RESOURCE_LINK: Final = _SAME_ID | {"link_id": "$response.body#/data/id"}
_ENTITY: Final = {"type": "$response.body#/data/type", "entity_id": "$response.body#/data/id"}

_OF_A_DOCUMENT: Final = (
    "documents_read",
    "documents_update",
    "documents_delete",
    "links_link",
    "links_link_resource",
    "links_list_links",
)

RELATIONS: Final = (
    *(Relation("documents_create", ("201",), target, _ID) for target in _OF_A_DOCUMENT),
    *(Relation("documents_put", _BOTH, target, _SAME_ID) for target in _OF_A_DOCUMENT),
    Relation("documents_delete", ("200",), "documents_restore", _ID),
    Relation("documents_restore", ("200",), "documents_read", _SAME_ID),
    Relation("links_link", _BOTH, "links_unlink", _NAMED_LINK),
    Relation("links_link", _BOTH, "links_set_role", _NAMED_LINK),
    Relation("links_link", _BOTH, "documents_read", _SAME_ID),
    Relation("links_link_resource", _BOTH, "links_unlink", _RESOURCE_LINK),
    Relation("links_link_resource", _BOTH, "links_set_role", _RESOURCE_LINK),
    Relation("links_link_resource", _BOTH, "links_list_links", _SAME_ID),
    Relation(
        "links_link_resource",
        _BOTH,
        "links_unlink_resource",
        _SAME_ID | {"resource_id": "$response.body#/data/resource/id"},
    ),
    Relation(
        "links_link_resource",
        _BOTH,
        "documents_find",
        {"resource_id": "$response.body#/data/resource/id"},
    ),
    Relation("entities_put", _BOTH, "entities_documents", _ENTITY),
    Relation("entities_put", _BOTH, "entities_delete", _ENTITY),
)


def add(paths: dict[str, Any]) -> None:
    """Add the links to the responses of their source calls."""
    operations = {
        operation["operationId"]: operation
        for path in paths.values()
        for operation in path.values()
    }
    for source, statuses, target, parameters in RELATIONS:
        link = {"operationId": operations[target]["operationId"], "parameters": parameters}
        for status in statuses:
            response = operations[source]["responses"][status]
            response.setdefault("links", {})[target] = link
