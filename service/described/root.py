"""The path `/`: it leads browsers to `/docs`, and does not exist for other clients."""

import re
from typing import Final

from service.core.writes import Reply
from service.edge.calls.call import Call
from service.edge.calls.problems import unknown_path

_VARY: Final = (b"vary", b"Accept")

_accepts_html = re.compile(
    rb"(?:\A|,)[ \t]*text/html[ \t]*(?![ \t;]*q=0(?:\.0*)?[ \t]*(?:,|\Z))(?:[,;]|\Z)", re.IGNORECASE
).search
"""Finds `text/html` in an Accept header, unless its weight is 0 (RFC 9110, section 12.5.1)."""


async def root(call: Call) -> Reply:
    """Redirect to the page if Accept names `text/html`; relative to the request, behind any path prefix.

    Raises:
        EdgeError: `not_found`: the client is no browser.
    """
    if not _accepts_html(call.headers.get(b"accept", b"")):
        raise unknown_path(call.path, _VARY)
    return Reply(302, b"", ((b"location", b"docs"), _VARY))
