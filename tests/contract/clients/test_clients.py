"""Generated clients: each compiles strictly, and does the main job with the running service."""

from collections.abc import Callable
from pathlib import Path

import pytest

from deploy.local import programs
from tests.contract.clients.languages import GENERATORS, Command
from tests.contract.clients.tools import run
from tests.contract.documents import made_now

EXPECTED = """\
entity 201 deal_1
entity 201 deal_2
entity 201 ship_1
entity 201 ship_2
entity 201 ship_3
create 201 Contract 3
link 201 signed "2"
link 200 signed "2"
resource 201 shipment Document linked
resource 201 shipment Document linked
resource 201 shipment Document linked
page 4 deal_1 ship_1 ship_2
page 4 ship_3
cursor deal_1 ship_1 ship_2
cursor ship_3
put renamed 4
update renamed legal 4
no edits 4
edits none 1 1
role evidence
role none
unlink Document unlinked "11"
unlink Document unlinked
again Link restored
delete doc_1
restore 3
batch 200 ship_3
batch 404 not_found
once 200 new
once 200 true
match 200
refused 400 validation_error role
refused 401 invalid_key
refused 403 insufficient_permissions
refused 404 not_found
refused 409 conflict
refused 412 precondition_failed
refused 413 payload_too_large
refused 422 idempotency_mismatch
refused 429 rate_limited
limit 1 0 reset "default";q=1;w=86400 "default";r=0;t=wait wait
"""


@pytest.mark.timeout(600)
@pytest.mark.parametrize("generate", GENERATORS, ids=[each.__name__ for each in GENERATORS])
async def test_generated_client_does_the_main_job(
    database: str, tmp_path: Path, generate: Callable[[Path, Path], Command]
) -> None:
    """The client links by both vendors' calls, lists, unlinks, restores, changes and is refused.

    What its program leaves out stays as it is: no link is removed by a default of the client. Nine of the
    fifteen error codes are provoked. The other statuses are not: 405, 408, 415, 431 and 500, which no call
    of a typed client provokes, and 503, for which the Postgres of all tests would have to stop.
    """
    document = tmp_path / "openapi.json"
    document.write_bytes((await made_now())["openapi.json"])
    folder = tmp_path / "client"
    folder.mkdir()
    command = generate(folder, document)
    keys = {
        "KEY": programs.create_key(database),
        "READ_KEY": programs.create_key(database, "--scope", "read:documents"),
        "SLOW_KEY": programs.create_key(database, "--rate-limit", "1/day"),
    }
    with programs.service(database, tmp_path, LINKS_RATE_LIMIT="1000/minute") as program:
        assert run(*command, cwd=folder, URL=program.url, **keys) == EXPECTED
