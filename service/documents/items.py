"""The links that the items of a body's `resources` stand for."""

from service.core.documents import LinkEdits, WantedLink
from service.core.ids import type_of
from service.core.values import MAX_LINKS, DocumentKey, EntityKey, LinkKey
from service.documents import messages
from service.edge.calls.problems import FieldError
from service.edge.calls.validation import wrong_fields
from service.edge.shapes.messages import NO_PREFIX


def whole_set(key: DocumentKey, items: list[messages.Item]) -> LinkEdits:
    """Return the edits after which exactly the items are linked.

    Raises:
        EdgeError: `validation_error`: too many items, or ids without a known prefix.
    """
    return LinkEdits(set=_wanted(key, items, "resources"))


def edits(key: DocumentKey, resources: messages.Edits) -> LinkEdits:
    """Return the edits that a body's `resources` asks for.

    Raises:
        EdgeError: `validation_error`: `set` beside `add` or `remove`, a resource in both of these, too many
            items, or ids without a known prefix.
    """
    add, remove, whole = resources.add, resources.remove, resources.set
    if isinstance(whole, list):
        if isinstance(add, list) or isinstance(remove, list):
            message = "cannot be combined with add or remove"
            raise wrong_fields([FieldError("resources.set", message)])
        return LinkEdits(set=_wanted(key, whole, "resources.set"))
    to_add = _wanted(key, add if isinstance(add, list) else [], "resources.add")
    to_remove = _wanted(key, remove if isinstance(remove, list) else [], "resources.remove")
    removed = {item.key for item in to_remove}
    both = [item.key.entity.id for item in to_add if item.key in removed]
    if both:
        message = f"{', '.join(both[:5])}: cannot be added and removed at once"
        raise wrong_fields([FieldError("resources.remove", message)])
    return LinkEdits(to_add, [item.key for item in to_remove])


def _wanted(document: DocumentKey, items: list[messages.Item], field: str) -> list[WantedLink]:
    """Return the links that the items name, each once."""
    if len(items) > MAX_LINKS:
        message = f"has {len(items)} items, and {MAX_LINKS} is the most: send them in several calls"
        raise wrong_fields([FieldError(field, message)])
    wanted: dict[LinkKey, WantedLink] = {}
    errors = []
    for index, item in enumerate(items):
        if isinstance(item, messages.EntityItem):
            entity_type, entity_id, role = item.entity_type, item.entity_id, item.role
        elif (entity_type := type_of(item)) is not None:
            entity_id, role = item, None
        else:
            errors.append(FieldError(f"{field}[{index}]", NO_PREFIX))
            continue
        key = LinkKey(document, EntityKey(document.workspace_id, entity_type, entity_id))
        wanted.setdefault(key, WantedLink(key, role))
    if errors:
        raise wrong_fields(errors)
    return list(wanted.values())
