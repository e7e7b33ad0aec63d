"""Random calls in random order: the service, its database and its subscribers against a model."""

import asyncio
from typing import Any, NamedTuple

import pytest
from hypothesis import HealthCheck, Phase, seed, settings
from hypothesis import strategies as st
from hypothesis.stateful import rule, run_state_machine_as_test

from tests.support.seeds import seeds
from tests.support.service.api import Service
from tests.support.service.driver import Driver, How
from tests.support.service.model import Entity, Refused, Wanted

DOCUMENTS = st.sampled_from(["d1", "d2", "d3"])
PREFIXED = [Entity("shipment", "ship_1"), Entity("item", "item_1"), Entity("item", "item_2")]
NAMED = [Entity("deal", "deal_1"), Entity("task", "deal_1")]
ENTITIES = st.sampled_from([*PREFIXED, *NAMED, Entity("deal", "ship_1")])
ROLES = st.sampled_from([None, "draft", "signed"])
WANTED = st.builds(Wanted, ENTITIES, ROLES)
LINKS = st.lists(WANTED, max_size=4)
FIELDS = st.fixed_dictionaries(
    {},
    optional={
        "display_name": st.sampled_from([None, "N", "é"]),
        "category": st.sampled_from([None, "c"]),
        "metadata": st.sampled_from([None, {}, {"a": 1}, {"a": True}, {"b": [{"c": None}]}]),
    },
)
HOW = st.builds(
    How, st.sampled_from([False, False, True]), st.sampled_from(["any", "any", "this", "stale"])
)


class Operation(NamedTuple):
    """One operation of a batch."""

    op: str
    document: str
    wanted: Wanted


OPERATIONS = st.builds(Operation, st.sampled_from(["link", "link", "unlink"]), DOCUMENTS, WANTED)


def item(wanted: Wanted) -> object:
    """Return the item of a link in `resources`."""
    entity_type, entity_id = wanted.entity
    if wanted.role is None and wanted.entity in PREFIXED:
        return entity_id
    return {"entity_type": entity_type, "entity_id": entity_id, "role": wanted.role}


def items(links: list[Wanted] | None) -> dict[str, Any]:
    """Return the `resources` of a create or a put."""
    return {} if links is None else {"resources": [item(each) for each in links]}


class Calls(Driver):
    """All calls of the API that change or read something."""

    @rule(entity=ENTITIES, how=HOW)
    def put_entity(self, entity: Entity, how: How) -> None:
        """Register an entity, or revive it."""
        path = f"/v1/entities/{entity.type}/{entity.id}"
        expect = self.model.put_entity
        answer, status = self.call(f"PUT {path}", None, How(how.keyed), lambda: expect(entity))
        assert answer.status_code == status

    @rule(entity=ENTITIES, how=HOW)
    def delete_entity(self, entity: Entity, how: How) -> None:
        """Delete an entity."""
        path = f"/v1/entities/{entity.type}/{entity.id}"
        expect = self.model.delete_entity
        self.call(f"DELETE {path}", None, How(how.keyed), lambda: expect(entity))

    @rule(name=DOCUMENTS, fields=FIELDS, links=st.none() | LINKS)
    def create(self, name: str, fields: dict[str, Any], links: list[Wanted] | None) -> None:
        """Create a document."""
        body = {"id": name, **fields, **items(links)}
        answer, changes = self.call(
            "POST /v1/documents", body, How(), lambda: self.model.make(name, fields, links), name
        )
        if changes is not None:
            assert answer.status_code == 201
            self.compare_document(answer, name, changes)

    @rule(name=DOCUMENTS, fields=FIELDS, links=st.none() | LINKS, how=HOW)
    def put(self, name: str, fields: dict[str, Any], links: list[Wanted] | None, how: How) -> None:
        """Create, replace or restore a document."""
        path, body = f"/v1/documents/{name}", {**fields, **items(links)}
        answer, done = self.call(
            f"PUT {path}", body, how, lambda: self.model.put(name, fields, links), name
        )
        if done is not None:
            assert answer.status_code == done[0]
            self.compare_document(answer, name, done[1])

    @rule(name=DOCUMENTS, fields=FIELDS, how=HOW)
    def update_fields(self, name: str, fields: dict[str, Any], how: How) -> None:
        """Update a document's fields."""
        self.update(name, fields, how, None)

    @rule(name=DOCUMENTS, add=LINKS, remove=st.lists(ENTITIES, max_size=3), how=HOW)
    def add_and_remove(self, name: str, add: list[Wanted], remove: list[Entity], how: How) -> None:
        """Update a document's links and its category."""
        remove = [entity for entity in remove if entity not in {each.entity for each in add}]
        edits = {"add": [item(each) for each in add], "remove": [item(Wanted(e)) for e in remove]}

        def expect() -> Any:  # noqa: ANN401 - what changed
            self.model.document(name).fields["category"] = "edited"
            return self.model.edit(name, add, remove)

        body = {"category": "edited", "resources": edits}
        answer, changes = self.call(f"POST /v1/documents/{name}", body, how, expect, name)
        if changes is not None:
            self.compare_document(answer, name, changes)

    @rule(name=DOCUMENTS, fields=FIELDS, how=HOW, links=LINKS)
    def update(
        self, name: str, fields: dict[str, Any], how: How, links: list[Wanted] | None
    ) -> None:
        """Update a document's fields, and replace its links."""
        whole = {} if links is None else {"resources": {"set": [item(each) for each in links]}}

        def expect() -> Any:  # noqa: ANN401 - what changed
            self.model.document(name).fields.update(fields)
            return self.model.edit(name, [], []) if links is None else self.model.set(name, links)

        path = f"/v1/documents/{name}"
        answer, changes = self.call(f"POST {path}", {**fields, **whole}, how, expect, name)
        if changes is not None:
            self.compare_document(answer, name, changes)

    @rule(name=DOCUMENTS, how=HOW)
    def delete(self, name: str, how: How) -> None:
        """Delete a document."""
        path = f"/v1/documents/{name}"
        self.call(f"DELETE {path}", None, how, lambda: self.model.delete(name), name)

    @rule(name=DOCUMENTS, how=HOW)
    def restore(self, name: str, how: How) -> None:
        """Restore a document."""
        path = f"/v1/documents/{name}/restore"
        answer, changes = self.call(
            f"POST {path}", None, how, lambda: self.model.restore(name), name
        )
        if changes is not None:
            self.compare_document(answer, name, changes)

    @rule(name=DOCUMENTS, wanted=WANTED, how=HOW)
    def link(self, name: str, wanted: Wanted, how: How) -> None:
        """Link, in any form that names the entity."""
        entity_type, entity_id = wanted.entity
        path = f"/v1/documents/{name}/link"
        body = {"entity_type": entity_type, "entity_id": entity_id, "role": wanted.role}
        if wanted.entity in PREFIXED:
            path, body, wanted = f"{path}s", {"resource_id": entity_id}, Wanted(wanted.entity)
        answer, kind = self.call(
            f"POST {path}", body, how, lambda: self.model.link(name, wanted), name
        )
        if kind is not None:
            assert answer.status_code == (201 if kind == "created" else 200)

    @rule(name=DOCUMENTS, entity=ENTITIES, how=HOW)
    def unlink(self, name: str, entity: Entity, how: How) -> None:
        """Remove a link by its entity."""
        path = f"/v1/documents/{name}/links?resource_id={entity.id}&resource_type={entity.type}"
        self.call(f"DELETE {path}", None, how, lambda: self.model.unlink(name, entity), name)

    @rule(name=DOCUMENTS, entity=ENTITIES, role=ROLES, how=HOW)
    def set_role(self, name: str, entity: Entity, role: str | None, how: How) -> None:
        """Change the role of a link by its id, which the list has."""
        query = f"resource_id={entity.id}&resource_type={entity.type}"
        listed = self.send("GET", f"/v1/documents/{name}/links?{query}").json().get("data")
        link_id = listed[0]["id"] if listed else "01234567-89ab-7def-8123-456789abcdef"
        path = f"/v1/documents/{name}/links/{link_id}"
        expect = self.model.set_role
        self.call(f"PATCH {path}", {"role": role}, how, lambda: expect(name, entity, role), name)

    @rule(operations=st.lists(OPERATIONS, min_size=1, max_size=6), atomic=st.booleans(), how=HOW)
    def batch(self, operations: list[Operation], *, atomic: bool, how: How) -> None:
        """Link and unlink several times, atomically or not."""
        body: list[dict[str, Any]] = [
            {
                "op": op,
                "document_id": name,
                "entity_type": wanted.entity.type,
                "entity_id": wanted.entity.id,
                "role": wanted.role,
            }
            for op, name, wanted in operations
        ]

        def expect() -> list[int]:
            return [self.apply(operation, atomic=atomic) for operation in operations]

        whole = {"operations": body, "atomic": atomic}
        answer, statuses = self.call("POST /v1/links/batch", whole, How(how.keyed), expect)
        if statuses is not None:
            assert [outcome["status"] for outcome in answer.json()["data"]] == statuses

    def apply(self, operation: Operation, *, atomic: bool) -> int:
        """Execute one operation of a batch on the model."""
        op, name, wanted = operation
        try:
            if op == "unlink":
                self.model.unlink(name, wanted.entity)
            elif self.model.link(name, wanted) == "created":
                return 201
        except Refused as refused:
            if atomic:
                raise
            return refused.status
        return 200

    @rule(name=DOCUMENTS)
    def read(self, name: str) -> None:
        """Read a document, and list its links."""
        path = f"/v1/documents/{name}"
        answer, document = self.call(f"GET {path}", None, How(), lambda: self.model.document(name))
        if document is not None:
            self.compare_document(answer, name)
            listed = self.send("GET", f"{path}/links?limit=100").json()["data"]
            resources = {(each["resource"]["type"], each["resource"]["id"]) for each in listed}
            assert resources == set(document.active)

    @rule(entity=ENTITIES)
    def look_up(self, entity: Entity) -> None:
        """List the documents linked to an entity."""
        query = f"?resource_id={entity.id}&resource_type={entity.type}"
        found = self.send("GET", f"/v1/documents{query}").json()["data"]
        linked = {
            n: d.active[entity] for n, d in self.model.documents.items() if entity in d.active
        }
        assert {each["id"]: each["link"]["role"] for each in found} == linked
        answer = self.send("GET", f"/v1/entities/{entity.type}/{entity.id}/documents")
        assert answer.status_code == (200 if self.model.entities.get(entity) else 404)
        assert not answer.is_success or answer.json()["data"] == found


@pytest.mark.timeout(300)
@pytest.mark.parametrize("number", seeds([0]))
def test_any_calls_in_any_order(database: str, number: int) -> None:
    """Each answer is the model's; after each run database, subscriber and model agree."""
    with asyncio.Runner() as runner:
        Calls.loop, Calls.service = runner, Service(database)
        calls = seed(number)(type("SeededCalls", (Calls,), {}))
        runner.run(Calls.service.__aenter__())
        try:
            run_state_machine_as_test(
                calls,
                settings=settings(
                    max_examples=25,
                    report_multiple_bugs=False,
                    stateful_step_count=40,
                    phases=[Phase.generate],  # shrinking costs minutes; a run is short as it is
                    suppress_health_check=list(HealthCheck),
                ),
            )
        finally:
            runner.run(Calls.service.__aexit__())
