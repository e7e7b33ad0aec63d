"""Deciding: random changes of random states, compared with a dictionary."""

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Any, NamedTuple
from uuid import UUID

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.core.errors import NotFound, PreconditionFailed, Refusal
from service.core.ids import IdSource
from service.core.links import Draft, decide
from service.core.preconditions import Preconditions, Tags
from service.core.values import (
    AddLink,
    Caller,
    Change,
    DocumentKey,
    DocumentState,
    EntityKey,
    LinkKey,
    LinkRow,
    Outcome,
    SetRole,
    Unlink,
)
from service.core.writes import State

WORKSPACE = "0193e6c4-0000-7000-8000-000000000001"
MOMENT = datetime(2026, 4, 17, tzinfo=UTC)
BEFORE = MOMENT - timedelta(days=1)
CALLER = Caller(WORKSPACE, "key_abc", "req_1")

KEYS = [
    LinkKey(DocumentKey(WORKSPACE, document), EntityKey(WORKSPACE, "deal", entity))
    for document in ("d1", "d2")
    for entity in "ab"
]
ROLES = st.sampled_from([None, "draft", "signed"])
CHANGES = st.one_of(
    st.builds(AddLink, st.sampled_from(KEYS), ROLES),
    st.builds(Unlink, st.sampled_from(KEYS), st.booleans()),
    st.builds(SetRole, st.sampled_from(KEYS), ROLES),
)

Shadow = dict[LinkKey, tuple[bool, str | None]]
"""The links as a dictionary: whether each is active, and its role."""


class Batch(NamedTuple):
    """The changes of one request."""

    atomic: bool
    changes: list[Change]


@st.composite
def states(draw: st.DrawFn) -> State:
    """Return a state as a transaction may read it; most documents and entities exist."""
    state = State(IdSource())
    state.now = MOMENT
    for document in ("d1", "d2"):
        if draw(st.integers(0, 5)):
            version = draw(st.integers(0, 1000))
            deleted = not draw(st.integers(0, 5))
            state.documents[DocumentKey(WORKSPACE, document)] = DocumentState(
                version, version + 7, deleted
            )
    state.entities = {EntityKey(WORKSPACE, "deal", e) for e in "ab" if draw(st.integers(0, 5))}
    for number, key in enumerate(KEYS):
        if key.document in state.documents and draw(st.booleans()):
            removed = BEFORE if draw(st.booleans()) else None
            state.links[key] = LinkRow(
                key,
                UUID(int=number),
                draw(ROLES),
                BEFORE,
                removed,
                None if removed is None else "unlink",
            )
            state.stored_links.add(key)
    return state


BATCHES = st.lists(st.builds(Batch, st.booleans(), st.lists(CHANGES, min_size=1, max_size=6)))


def shadow_of(state: State) -> Shadow:
    """Return the state's links as a dictionary."""
    return {t: (link.deleted_at is None, link.role) for t, link in state.links.items()}


def expect(state: State, shadow: Shadow, change: Change) -> str:
    """Apply the change to the dictionary; return the expected outcome."""
    key = change.key
    document = state.documents.get(key.document)
    active, role = shadow.get(key, (False, None))
    if document is None or document.deleted:
        return "not_found"
    match change:
        case AddLink():
            return expect_link(state, shadow, change)
        case Unlink(missing_ok=missing_ok) if not active:
            return "unchanged" if missing_ok else "not_found"
        case Unlink():
            shadow[key] = (False, role)
            return "unlinked"
        case SetRole() if not active:
            return "not_found"
        case SetRole(role=wanted):
            shadow[key] = (True, wanted)
            return "unchanged" if wanted == role else "updated"


def expect_link(state: State, shadow: Shadow, change: AddLink) -> str:
    """Apply a link of an existing document to the dictionary; return the expected outcome."""
    if change.key.entity not in state.entities:
        return "not_found"
    known = change.key in shadow
    active, role = shadow.get(change.key, (False, None))
    if active:
        return "existing"
    shadow[change.key] = (True, role if change.role is None else change.role)
    return "restored" if known else "created"


def expect_batch(state: State, shadow: Shadow, batch: Batch) -> tuple[Shadow, list[str] | int]:
    """Return the dictionary afterwards, and the outcomes, or the index of an atomic batch's failure."""
    after = dict(shadow)
    kinds: list[str] = []
    for index, change in enumerate(batch.changes):
        kinds.append(expect(state, after, change))
        if batch.atomic and kinds[-1] == "not_found":
            return shadow, index
    return after, kinds


def run(state: State, batch: Batch) -> list[str] | int:
    """Decide about the batch; return the same as `expect_batch`."""
    try:
        outcomes = decide(Draft(state, CALLER, "batch"), batch.changes, atomic=batch.atomic)
    except NotFound as refusal:
        return refusal.index if refusal.index is not None else 0
    return [each.kind if isinstance(each, Outcome) else each.code for each in outcomes]


def told(state: State) -> list[dict[str, Any]]:
    """Return the values of the events."""
    return [msgspec.json.decode(row.payload) for row in state.unsaved.outbox]


def subscribe(before: Shadow, events: Sequence[dict[str, Any]]) -> Shadow:
    """Apply events as a subscriber that knew the links before."""
    links = dict(before)
    for event in events:
        link = event["data"]["link"]
        resource = link["resource"]
        key = LinkKey(
            DocumentKey(WORKSPACE, event["subject"]),
            EntityKey(WORKSPACE, resource["type"], resource["id"]),
        )
        links[key] = (link["deleted_at"] is None, link["role"])
    return links


@given(states(), BATCHES)
def test_outcomes_and_links_are_those_of_a_plain_dictionary(
    state: State, batches: list[Batch]
) -> None:
    """Each request has the outcomes of the dictionary, after those before it."""
    shadow = shadow_of(state)
    for batch in batches:
        shadow, expected = expect_batch(state, shadow, batch)
        assert run(state, batch) == expected
        assert shadow_of(state) == shadow


@given(states(), BATCHES)
def test_events_are_the_difference(state: State, batches: list[Batch]) -> None:
    """A subscriber has the same links at the end, and there is one event for each change."""
    before = shadow_of(state)
    changed = []
    for batch in batches:
        kinds = run(state, batch)
        if isinstance(kinds, list):
            changed += [k for k in kinds if k in {"created", "restored", "updated", "unlinked"}]
    assert subscribe(before, told(state)) == shadow_of(state)
    names = {"linked": "created", "link_updated": "updated"}
    types = [row.event_type.removeprefix("document.") for row in state.unsaved.outbox]
    assert [names.get(name, name) for name in types] == changed


@given(states(), BATCHES)
def test_versions_grow_by_one_an_event_without_a_gap(state: State, batches: list[Batch]) -> None:
    """Each event of a document has the next version, and the document has the last one."""
    versions = {key: document.version for key, document in state.documents.items()}
    for batch in batches:
        run(state, batch)
    for event in told(state):
        versions[DocumentKey(WORKSPACE, event["subject"])] += 1
        assert (
            event["data"]["document_version"] == versions[DocumentKey(WORKSPACE, event["subject"])]
        )
        assert event["sequence"] == f"{versions[DocumentKey(WORKSPACE, event['subject'])]:020d}"
    assert versions == {key: document.version for key, document in state.documents.items()}


@given(states(), BATCHES)
def test_revision_grows_by_one_a_request(state: State, batches: list[Batch]) -> None:
    """A request that changes a document's links, however many, adds one to its revision."""
    for batch in batches:
        revisions = {key: document.revision for key, document in state.documents.items()}
        mark = len(state.unsaved.outbox)
        run(state, batch)
        touched = {(WORKSPACE, event["subject"]) for event in told(state)[mark:]}
        assert {key: document.revision for key, document in state.documents.items()} == {
            key: revision + (key in touched) for key, revision in revisions.items()
        }


@given(states(), BATCHES)
def test_what_is_to_be_written_is_what_changed(state: State, batches: list[Batch]) -> None:
    """Rows are written for the links and documents that have events, and for no others."""
    for batch in batches:
        run(state, batch)
    assert {key.document for key in state.unsaved.links} == state.unsaved.documents
    assert set(subscribe({}, told(state))) == state.unsaved.links


@given(states(), st.lists(CHANGES, min_size=1))
def test_refused_request_leaves_the_state_untouched(state: State, changes: list[Change]) -> None:
    """A refused atomic request changes no field of the state."""
    before = msgspec.structs.asdict(state) | {
        name: type(value)(value)
        for name, value in msgspec.structs.asdict(state).items()
        if isinstance(value, dict | set | list)
    }
    try:
        decide(
            Draft(state, CALLER, "batch"),
            [
                *changes,
                AddLink(LinkKey(DocumentKey(WORKSPACE, "no"), EntityKey(WORKSPACE, "deal", "a"))),
            ],
        )
    except Refusal:
        assert msgspec.structs.asdict(state) == before
    else:
        pytest.fail("a link of a document that is not there was accepted")


def test_restoring_keeps_id_and_creation() -> None:
    """A restored link is the same row, with its id and created_at."""
    state = State(IdSource())
    state.now = MOMENT
    old = LinkRow(KEYS[0], UUID(int=5), "draft", BEFORE, BEFORE, "document_deleted", UUID(int=9))
    state.documents[KEYS[0].document] = DocumentState(3, 4)
    state.entities.add(KEYS[0].entity)
    state.links[KEYS[0]] = old
    decide(Draft(state, CALLER, "link"), [AddLink(KEYS[0])])
    assert state.links[KEYS[0]] == LinkRow(KEYS[0], UUID(int=5), "draft", BEFORE)


@pytest.mark.parametrize("accepted", [frozenset[int](), frozenset({3, 5})])
def test_other_revision_is_refused(accepted: frozenset[int]) -> None:
    """If-Match with another revision writes nothing."""
    state = State(IdSource())
    state.now = MOMENT
    state.documents[KEYS[0].document] = DocumentState(0, 4)
    state.entities.add(KEYS[0].entity)
    with pytest.raises(PreconditionFailed):
        decide(
            Draft(state, CALLER, "link"),
            [AddLink(KEYS[0])],
            preconditions=Preconditions(Tags(accepted)),
        )
    assert (state.links, state.unsaved.outbox) == ({}, [])


def test_the_right_revision_is_accepted() -> None:
    """If-Match with the document's revision lets the write pass, which changes the revision."""
    state = State(IdSource())
    state.now = MOMENT
    state.documents[KEYS[0].document] = DocumentState(0, 4)
    state.entities.add(KEYS[0].entity)
    decide(
        Draft(state, CALLER, "link"),
        [AddLink(KEYS[0])],
        preconditions=Preconditions(Tags(frozenset({4}))),
    )
    assert state.documents[KEYS[0].document] == DocumentState(1, 5)
