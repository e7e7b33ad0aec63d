"""Ids: their order is the order of time, and their text is a TypeID."""

from datetime import UTC, datetime, timedelta
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.core import ids

IDS = ids.IdSource()
MOMENTS = st.integers(0, (1 << 48) * 1000 - 2)
UUIDS = st.integers(0, (1 << 128) - 1).map(lambda value: UUID(int=value))

# valid.yml of the TypeID specification.
VECTORS = [
    ("00000000000000000000000000", "00000000-0000-0000-0000-000000000000"),
    ("00000000000000000000000001", "00000000-0000-0000-0000-000000000001"),
    ("0000000000000000000000000a", "00000000-0000-0000-0000-00000000000a"),
    ("0000000000000000000000000g", "00000000-0000-0000-0000-000000000010"),
    ("00000000000000000000000010", "00000000-0000-0000-0000-000000000020"),
    ("7zzzzzzzzzzzzzzzzzzzzzzzzz", "ffffffff-ffff-ffff-ffff-ffffffffffff"),
    ("0123456789abcdefghjkmnpqrs", "0110c853-1d09-52d8-d73e-1194e95b5f19"),
    ("01h455vb4pex5vsknk084sn02q", "01890a5d-ac96-774b-bcce-b302099a8057"),
]

# The suffixes of its invalid.yml, and near misses of our two forms.
REJECTED = [
    "",
    "dlnk",
    "dlnk_",
    "dlnk_8zzzzzzzzzzzzzzzzzzzzzzzzz",
    "dlnk_1234567890123456789012345",
    "dlnk_123456789012345678901234567",
    "dlnk_0123456789ABCDEFGHJKMNPQRS",
    "dlnk_ooooooiiiiiiuuuuuuulllllll",
    "dlnk_i23456789ol23456789oi23456",
    "dlnk_123456789-0123456789-012345",
    "dlnk_1234567890123456789012345 ",
    "doc_01h455vb4pex5vsknk084sn02q",
    "_01h455vb4pex5vsknk084sn02q",
    "01h455vb4pex5vsknk084sn02q",
    "dlnk_01h455vb4pex5vsknk084sn02q\n",
    "01890a5dac96774bbcceb302099a8057",
    "{01890a5d-ac96-774b-bcce-b302099a8057}",
    "01890a5d-ac96-774b-bcce-b302099a8057\n",
]


@given(MOMENTS, MOMENTS)
def test_ids_sort_by_time(one: int, other: int) -> None:
    """Ids of different microseconds have the order of the microseconds, as numbers and as texts."""
    first, second = sorted((one, other))
    if first != second:
        assert IDS.uuid7(first) < IDS.uuid7(second)
        assert str(IDS.uuid7(first)) < str(IDS.uuid7(second))


@given(MOMENTS)
def test_neighbouring_microseconds_are_told_apart(moment: int) -> None:
    """A difference of one microsecond decides the order of two ids."""
    assert IDS.uuid7(moment) < IDS.uuid7(moment + 1)


@given(MOMENTS)
def test_uuid_is_of_version_7(moment: int) -> None:
    """The id has version 7, the RFC's variant and the milliseconds of its time."""
    uuid = IDS.uuid7(moment)
    assert (uuid.version, uuid.variant) == (7, "specified in RFC 4122")
    assert uuid.int >> 80 == moment // 1000


def test_ids_of_one_moment_differ() -> None:
    """Two ids of the same time differ."""
    assert len({IDS.uuid7(1_700_000_000_000_000) for _ in range(1000)}) == 1000


@pytest.mark.parametrize(("text", "uuid"), VECTORS)
def test_text_is_that_of_the_typeid_specification(text: str, uuid: str) -> None:
    """The examples of the specification are written and parsed."""
    assert ids.to_text("prefix", UUID(uuid)) == f"prefix_{text}"
    assert ids.from_text("prefix", f"prefix_{text}") == UUID(uuid)


@given(UUIDS)
def test_both_forms_are_read_back(uuid: UUID) -> None:
    """A link id is parsed as a TypeID, as a UUID and as a UUID in capitals."""
    for text in (ids.to_text("dlnk", uuid), str(uuid), str(uuid).upper()):
        assert ids.from_text("dlnk", text) == uuid


@pytest.mark.parametrize("text", REJECTED)
def test_what_is_no_id_is_refused(text: str) -> None:
    """Other lengths, letters, prefixes and forms of a UUID are not a link id."""
    assert ids.from_text("dlnk", text) is None


@given(st.datetimes(timezones=st.just(UTC)))
def test_microseconds_are_exact(moment: datetime) -> None:
    """No microsecond is lost to floating point."""
    epoch = datetime(1970, 1, 1, tzinfo=UTC)
    assert epoch + timedelta(microseconds=ids.microseconds(moment)) == moment


def test_request_ids_are_ulids() -> None:
    """A request id is `req_` and a ULID: 26 characters of its alphabet, different each time."""
    made = {IDS.request_id() for _ in range(100)}
    assert len(made) == 100
    for text in made:
        prefix, _, ulid = text.partition("_")
        assert (prefix, len(ulid)) == ("req", 26)
        assert set(ulid) <= set("0123456789ABCDEFGHJKMNPQRSTVWXYZ")
