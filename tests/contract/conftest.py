"""The service as a process, with the documents that the examples name, and a browser."""

from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import httpx
import pytest

from deploy.local import programs
from tests.contract.browser import Browser

DOCUMENTS = ("doc_01HY1", "dcmt_01j9abc123")


class Running(NamedTuple):
    """The URL of the running service, and keys of two workspaces."""

    url: str
    key: str
    other_key: str

    def put(self, document: str) -> None:
        """Make a document."""
        headers = {"X-API-KEY": self.key}
        response = httpx.put(f"{self.url}/v1/documents/{document}", json={}, headers=headers)
        assert response.status_code == 201


@pytest.fixture
def running(database: str, tmp_path: Path) -> Iterator[Running]:
    """Yield the running service."""
    key = programs.create_key(database, workspace="one")
    other_key = programs.create_key(database, workspace="other")
    settings = {"LINKS_RATE_LIMIT": "1000000/minute", "LINKS_ENTITY_POLICY": "any"}
    with programs.service(database, tmp_path, **settings) as program:
        running = Running(program.url, key, other_key)
        for document in DOCUMENTS:
            running.put(document)
        yield running


@pytest.fixture
def browser(tmp_path: Path) -> Iterator[Browser]:
    """Yield a browser with an empty profile."""
    browser = Browser(tmp_path / "profile")
    yield browser
    browser.chrome.quit()
