"""The mix of `make soak` has all calls."""

import json
from pathlib import Path

from tests.soak.mix import DOCUMENTS, KINDS, PAGES, World, choose, entities, entities_of

OPENAPI = Path(__file__).parents[2] / "contract/published/openapi.json"


def test_has_every_described_call() -> None:
    """Each operation of the service's OpenAPI document is in the mix, and the mix has no other."""
    paths = json.loads(OPENAPI.read_text())["paths"]
    described = {f"{method.upper()} {path}" for path, of in paths.items() for method in of}
    assert {kind.operation for kind in KINDS} == described


def test_stays_in_its_world() -> None:
    """Each call is about a document or an entity that was made before the run."""
    world = World()
    world.link_ids = {number: [f"id_{number}"] for number in range(1, DOCUMENTS + 1)}
    made = {request.path for request in entities()}
    linked = {
        f"/v1/entities/{kind}/{id_}"
        for number in range(1, DOCUMENTS + 1)
        for kind, id_ in entities_of(number)
    }
    assert linked == made
    for kind, request in (choose(world) for _ in range(5000)):
        method, path = kind.operation.split()
        assert request.method == method
        parts = request.path.partition("?")[0].split("/")
        if path not in PAGES and parts[1:3] == ["v1", "documents"] and len(parts) > 3:
            assert 1 <= int(parts[3].removeprefix("doc_")) <= DOCUMENTS
        if parts[1:3] == ["v1", "entities"]:
            assert "/".join(parts[:5]) in made


def test_sends_a_key_twice_with_the_same_body() -> None:
    """Every second call with an Idempotency-Key repeats the one before."""
    world = World()
    first, again, other = (world.keyed() for _ in range(3))
    assert first == again
    assert first.headers != other.headers
