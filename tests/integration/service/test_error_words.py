"""The texts for wrong requests: what to do, for several errors at once."""

from typing import NamedTuple

import pytest

from tests.support.service.api import Api

TYPES = "contact, company, deal, event, matter, task"
ALL_TYPES = f"{TYPES}, fulfillment, shipment, asset, manifest, item"
PREFIXES = "has to begin with one of ful_, ship_, ast_, mfst_, item_ and go on after it"
ID = "has to be 1 to 128 of A-Z a-z 0-9 _ - . and begin with a letter or digit"
DOCUMENT = "/v1/documents/doc_1"


class Case(NamedTuple):
    """A wrong request, and the text for each of its fields."""

    line: str
    body: object
    errors: dict[str, str]


CASES = {
    "several at once": Case(
        f"POST {DOCUMENT}/link",
        {"entity_type": "dael", "rolle": "x", "role": 5},
        {
            "rolle": "is not known; did you mean `role`?",
            "entity_type": f"has to be one of {TYPES}",
            "entity_id": "is required",
            "role": "has to be text or null, not a whole number",
        },
    ),
    "the other vendor's type": Case(
        f"POST {DOCUMENT}/link",
        {"entity_type": "shipment", "entity_id": "ship_1"},
        {"entity_type": f"has to be one of {TYPES}"},
    ),
    "long role": Case(
        f"POST {DOCUMENT}/link",
        {"entity_type": "deal", "entity_id": "a b", "role": "x" * 65},
        {"entity_id": ID, "role": "has to have at most 64 characters"},
    ),
    "no prefix": Case(
        f"POST {DOCUMENT}/links", {"resource_id": "deal_1"}, {"resource_id": PREFIXES}
    ),
    "a prefix alone": Case(
        f"POST {DOCUMENT}/links", {"resource_id": "ship_"}, {"resource_id": PREFIXES}
    ),
    "strange field": Case(
        f"POST {DOCUMENT}/links",
        {"resource_id": "ship_1", "zzz": 1},
        {"zzz": "is not known; known are resource_id"},
    ),
    "prefixes in a list": Case(
        f"POST {DOCUMENT}",
        {"resources": {"add": ["ship_1", "truck_1", "item_"]}},
        {"resources.add[1]": PREFIXES, "resources.add[2]": PREFIXES},
    ),
    "items of a list": Case(
        f"POST {DOCUMENT}",
        {"resources": {"set": [5, {"entity_type": "car", "entity_id": "a"}]}},
        {
            "resources.set[0]": "has to be text or an object, not a whole number",
            "resources.set[1].entity_type": f"has to be one of {ALL_TYPES}",
        },
    ),
    "metadata": Case(
        f"PUT {DOCUMENT}",
        {"metadata": [], "display_name": "x" * 513},
        {
            "metadata": "has to be an object or null, not a list",
            "display_name": "has to have at most 512 characters",
        },
    ),
    "batch": Case(
        "POST /v1/links/batch",
        {"operations": [], "atomic": "yes"},
        {
            "operations": "has to have at least 1 item",
            "atomic": "has to be true or false, not text",
        },
    ),
    "operations": Case(
        "POST /v1/links/batch",
        {"operations": [{"op": "relink", "document_id": "doc_1"}, {"op": "link"}]},
        {
            "operations[0].op": "has to be one of link, unlink",
            "operations[1].document_id": "is required",
        },
    ),
    "page and limit": Case(
        f"GET {DOCUMENT}/links?page=0&limit=101&pages=2",
        None,
        {
            "pages": "is not known; did you mean `page`?",
            "page": "has to be a whole number from 1 to 1000000000",
            "limit": "has to be a whole number from 1 to 100",
        },
    ),
    "limit in words": Case(
        f"GET {DOCUMENT}/links?limit=ten",
        None,
        {"limit": "has to be a whole number from 1 to 100"},
    ),
    "type in the path": Case(
        "PUT /v1/entities/car/car_1", None, {"type": f"has to be one of {ALL_TYPES}"}
    ),
    "id in the path": Case("GET /v1/documents/_x", None, {"id": ID}),
}


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
async def test_words(api: Api, case: Case) -> None:
    """Each wrong field is named with what it must be."""
    method, path = case.line.split()
    answer = await api.client.request(method, path, json=case.body)
    assert answer.status_code == 400
    told = {error["field"]: error["message"] for error in answer.json()["errors"]}
    assert told == case.errors


async def test_detail_is_enough_for_one_error(api: Api) -> None:
    """With one wrong field `detail` has the whole error; with several it has their number."""
    url = f"{DOCUMENT}/link"
    one = await api.client.post(url, json={"entity_type": "deal"})
    assert one.json()["detail"] == "entity_id: is required"
    two = await api.client.post(url, json={})
    assert two.json()["detail"] == "2 fields are wrong"
