"""Events: the fields of a CloudEvent, and times to the microsecond."""

from datetime import UTC, datetime, timedelta
from uuid import UUID

import msgspec
import pytest
from cloudevents.core.formats.json import JSONFormat
from cloudevents.core.v1.event import CloudEvent

from service.core import events
from service.core.ids import IdSource
from service.core.links import Draft, decide
from service.core.values import (
    AddLink,
    Caller,
    Change,
    DocumentKey,
    DocumentState,
    EntityKey,
    LinkKey,
    SetRole,
    Unlink,
)
from service.core.writes import State

WORKSPACE = "0193e6c4-0000-7000-8000-000000000001"
KEY = LinkKey(DocumentKey(WORKSPACE, "doc_1"), EntityKey(WORKSPACE, "shipment", "ship_1"))
MOMENT = datetime(2026, 4, 17, 10, 55, 0, 7, tzinfo=UTC)
TRACEPARENT = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
CALLER = Caller(WORKSPACE, "key_abc", "req_1", TRACEPARENT)


def outbox_of(*changes: Change, caller: Caller = CALLER) -> list[events.OutboxRow]:
    """Return the events of changes to a document at version 41 without links."""
    state = State(IdSource())
    state.now = MOMENT
    state.documents[KEY.document] = DocumentState(41, 50)
    state.entities.add(KEY.entity)
    decide(Draft(state, caller, "link"), changes)
    return state.unsaved.outbox


def test_first_event_of_a_link_field_by_field() -> None:
    """The value is the whole CloudEvent; only its ids are random."""
    (row,) = outbox_of(AddLink(KEY, "signed"))
    event = msgspec.json.decode(row.payload)
    link_id = event["data"]["link"]["id"]
    assert UUID(link_id).version == UUID(event["id"]).version == 7
    assert event == {
        "specversion": "1.0",
        "id": str(row.event_id),
        "source": f"/workspaces/{WORKSPACE}",
        "type": "document.linked",
        "subject": "doc_1",
        "time": "2026-04-17T10:55:00.000007Z",
        "datacontenttype": "application/json",
        "dataschema": "urn:document-links:document.linked:1",
        "partitionkey": f"{WORKSPACE}/doc_1",
        "sequence": "00000000000000000042",
        "data": {
            "workspace_id": WORKSPACE,
            "document_id": "doc_1",
            "document_version": 42,
            "link": {
                "id": link_id,
                "resource": {"id": "ship_1", "type": "shipment"},
                "role": "signed",
                "created_at": "2026-04-17T10:55:00.000007Z",
                "deleted_at": None,
            },
            "previous": None,
            "cause": "link",
            "actor": "key_abc",
            "request_id": "req_1",
        },
        "traceparent": TRACEPARENT,
    }


def test_outbox_row_says_what_its_payload_says() -> None:
    """Type, key and traceparent of the row are those in the payload."""
    (row,) = outbox_of(AddLink(KEY))
    event = msgspec.json.decode(row.payload)
    assert (row.event_type, row.key, row.traceparent) == (
        event["type"],
        event["partitionkey"],
        event["traceparent"],
    )


def test_without_a_traceparent_the_attribute_is_absent() -> None:
    """Without a trace the attribute is absent, because CloudEvents has no null attributes."""
    (row,) = outbox_of(AddLink(KEY), caller=Caller(WORKSPACE, "key_abc", "req_1"))
    assert "traceparent" not in msgspec.json.decode(row.payload)
    assert row.traceparent is None


def test_previous_is_what_the_change_replaced() -> None:
    """Each event after a link's first has the role and the deletion that it replaced."""
    rows = outbox_of(AddLink(KEY, "draft"), SetRole(KEY, "signed"), Unlink(KEY), AddLink(KEY, None))
    told = [msgspec.json.decode(row.payload) for row in rows]
    time = "2026-04-17T10:55:00.000007Z"
    assert [event["type"] for event in told] == [
        "document.linked",
        "document.link_updated",
        "document.unlinked",
        "document.restored",
    ]
    assert [event["data"]["previous"] for event in told] == [
        None,
        {"role": "draft", "deleted_at": None},
        {"role": "signed", "deleted_at": None},
        {"role": "signed", "deleted_at": time},
    ]
    assert [event["data"]["link"]["deleted_at"] for event in told] == [None, None, time, None]
    assert [event["data"]["link"]["role"] for event in told] == [
        "draft",
        "signed",
        "signed",
        "signed",
    ]


def test_a_cloudevents_library_reads_it() -> None:
    """The CNCF's library reads a valid event with its extensions."""
    (row,) = outbox_of(AddLink(KEY))
    event = JSONFormat().read(CloudEvent, row.payload)
    assert event.get_id() == str(row.event_id)
    assert event.get_time() == MOMENT
    assert event.get_extension("partitionkey") == row.key
    assert event.get_extension("sequence") == "00000000000000000042"


@pytest.mark.parametrize(
    ("microsecond", "text"),
    [
        (0, "2026-04-17T10:55:00.000000Z"),
        (1, "2026-04-17T10:55:00.000001Z"),
        (999_999, "2026-04-17T10:55:00.999999Z"),
    ],
)
def test_times_are_utc_with_microseconds(microsecond: int, text: str) -> None:
    """Times have six digits and Z, so that the order of texts is the order of times."""
    moment = MOMENT + timedelta(microseconds=microsecond - 7)
    assert events.timestamp(moment) == text
    assert events.optional_timestamp(moment) == text
    assert events.optional_timestamp(None) is None
