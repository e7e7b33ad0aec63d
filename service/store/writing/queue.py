"""Requests that wait to be written together, and which of them fit into one transaction."""

import time
from collections import deque
from typing import Final

from service.core.errors import Unavailable
from service.store.writing.execute import Member

MAX_CHANGES: Final = 500
"""Changes in one transaction of several requests. It bounds how long the others wait, and the memory."""
MAX_WAIT_S: Final = 5.0
"""The longest time in a queue, in seconds. After that the caller is answered 503."""


def take_group(queue: deque[Member], room: int = MAX_CHANGES) -> list[Member]:
    """Remove from the queue the requests that share the next transaction, `room` changes at most.

    A request whose caller has gone is dropped, and one that waited too long is refused. Of several
    requests with one Idempotency-Key only the first is taken: the next one has to read its reply.
    """
    group: list[Member] = []
    put_off: list[Member] = []
    scopes = set()
    oldest = time.monotonic() - MAX_WAIT_S
    while queue and room >= queue[0].size:
        member = queue.popleft()
        if member.future.done():
            continue
        if member.arrived < oldest:
            member.fail(Unavailable("the database does not keep up; nothing was written"))
        elif member.scope is not None and member.scope in scopes:
            put_off.append(member)
        else:
            scopes.add(member.scope)
            group.append(member)
            room -= member.size
    queue.extendleft(reversed(put_off))
    return group
