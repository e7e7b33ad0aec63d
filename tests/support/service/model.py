"""A model of the API on dictionaries: the answers and the state that the service must have."""

from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from copy import deepcopy
from dataclasses import dataclass, field
from typing import Any, NamedTuple

FIELDS = ("display_name", "category", "metadata")


class Entity(NamedTuple):
    """An entity's type and id."""

    type: str
    id: str


class Wanted(NamedTuple):
    """A link that a call asks for; a role of None leaves the link's role as it is."""

    entity: Entity
    role: str | None = None


class Refused(Exception):  # noqa: N818 - named as the service's own are
    """The service must refuse the call with this status and change nothing."""

    def __init__(self, status: int) -> None:
        super().__init__(status)
        self.status = status


@dataclass
class Link:
    """A link; it is kept after its removal."""

    role: str | None
    active: bool = True
    deletion: int | None = None


@dataclass
class Document:
    """A document; it is kept after its deletion."""

    fields: dict[str, Any] = field(default_factory=lambda: dict.fromkeys(FIELDS))
    links: dict[Entity, Link] = field(default_factory=dict)
    version: int = 0
    revision: int = 1
    deletions: int = 0
    deleted: bool = False

    @property
    def active(self) -> dict[Entity, str | None]:
        """The roles of the active links."""
        return {entity: link.role for entity, link in self.links.items() if link.active}


class Model:
    """A workspace. Each call returns its status or the kinds of its outcomes, or raises Refused."""

    def __init__(self) -> None:
        self.documents: dict[str, Document] = {}
        self.entities: dict[Entity, bool] = {}

    @contextmanager
    def call(self, document: str, if_match: int | None = None) -> Iterator[None]:
        """Undo a call that is refused; check the revision last; add one to it if anything changed."""
        before = deepcopy(self.documents)
        try:
            yield
            self._check(before.get(document), if_match)
        except Refused:
            self.documents = before
            raise
        for name, now in self.documents.items():
            was = before.get(name)
            now.revision += was is not None and repr(was) != repr(now)  # repr, because True == 1

    def _check(self, before: Document | None, if_match: int | None) -> None:
        if if_match is not None and (before is None or before.revision != if_match):
            raise Refused(412)

    def document(self, name: str) -> Document:
        """Return a document that exists."""
        document = self.documents.get(name)
        if document is None or document.deleted:
            raise Refused(404)
        return document

    def link(self, name: str, wanted: Wanted) -> str:
        """Make or restore a link, or find it active."""
        document, link = self.document(name), self.documents[name].links.get(wanted.entity)
        if not self.entities.get(wanted.entity):
            raise Refused(404)
        if link is not None and link.active:
            return "existing"
        role = wanted.role or (link.role if link is not None else None)
        document.links[wanted.entity] = Link(role)
        document.version += 1
        return "created" if link is None else "restored"

    def unlink(self, name: str, entity: Entity, deletion: int | None = None) -> str:
        """Remove an active link."""
        document, link = self.document(name), self.documents[name].links.get(entity)
        if link is None or not link.active:
            raise Refused(404)
        link.active, link.deletion = False, deletion
        document.version += 1
        return "unlinked"

    def set_role(self, name: str, entity: Entity, role: str | None) -> str:
        """Change the role of an active link."""
        document, link = self.document(name), self.documents[name].links.get(entity)
        if link is None or not link.active:
            raise Refused(404)
        if link.role == role:
            return "unchanged"
        link.role = role
        document.version += 1
        return "updated"

    def edit(self, name: str, add: Iterable[Wanted], remove: Iterable[Entity]) -> Counter[str]:
        """Remove links, then add links; repeated ones, and those that change nothing, do not count."""
        active = self.document(name).active
        kinds = [self.unlink(name, e) for e in dict.fromkeys(remove) if e in active]
        first = {wanted.entity: wanted for wanted in reversed(list(add))}
        return _changes([*kinds, *(self.link(name, wanted) for wanted in first.values())])

    def set(self, name: str, wanted: Iterable[Wanted]) -> Counter[str]:
        """Replace the links by these; a role that is given replaces the link's."""
        first = {each.entity: each for each in reversed(list(wanted))}
        gone = [entity for entity in self.document(name).active if entity not in first]
        kinds = [self.unlink(name, entity) for entity in gone]
        for each in first.values():
            kind = self.link(name, each)
            if kind == "existing" and each.role is not None:
                kind = self.set_role(name, each.entity, each.role)
            kinds.append(kind)
        return _changes(kinds)

    def make(self, name: str, fields: dict[str, Any], links: list[Wanted] | None) -> Counter[str]:
        """Create a document with an id that no document has had."""
        if name in self.documents:
            raise Refused(409)
        self.documents[name] = Document()
        self.documents[name].fields.update(fields)
        return self.set(name, links or [])

    def put(
        self, name: str, fields: dict[str, Any], links: list[Wanted] | None
    ) -> tuple[int, Counter[str]]:
        """Create, replace or restore a document; return the status and the changes."""
        if name not in self.documents:
            return 201, self.make(name, fields, links)
        document = self.documents[name]
        status = 201 if document.deleted else 200
        document.deleted = False
        document.fields = dict.fromkeys(FIELDS) | fields
        return status, self.set(name, links) if links is not None else Counter()

    def delete(self, name: str) -> None:
        """Delete a document with its links."""
        document = self.document(name)
        document.deletions += 1
        for entity in document.active:
            self.unlink(name, entity, document.deletions)
        document.deleted = True

    def restore(self, name: str) -> Counter[str]:
        """Restore a document with the links that its deletion removed, unless the entity is deleted."""
        if name not in self.documents:
            raise Refused(404)
        document = self.documents[name]
        if not document.deleted:
            return Counter()
        document.deleted = False
        taken = [e for e, each in document.links.items() if each.deletion == document.deletions]
        return _changes([self.link(name, Wanted(e)) for e in taken if self.entities.get(e)])

    def put_entity(self, entity: Entity) -> int:
        """Register an entity, or revive it; return the status."""
        status = 200 if self.entities.get(entity) else 201
        self.entities[entity] = True
        return status

    def delete_entity(self, entity: Entity) -> None:
        """Delete an entity with all links to it."""
        if not self.entities.get(entity):
            raise Refused(404)
        for name, document in self.documents.items():
            if entity in document.active:
                self.unlink(name, entity)
        self.entities[entity] = False


def _changes(kinds: Iterable[str]) -> Counter[str]:
    """Count the changes by the names that answers use."""
    named = {"created": "linked"}
    return Counter(named.get(kind, kind) for kind in kinds if kind not in {"existing", "unchanged"})
