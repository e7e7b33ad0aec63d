"""What the load knows of a peer."""

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, field

Running = Callable[[], AbstractContextManager[str]]
"""Starts a peer and yields its URL."""


@dataclass(frozen=True)
class Peer:
    """A server that writes links, on a database of its own in the same Postgres."""

    name: str
    dsn: str
    running: Running
    counts: str
    """SQL: how many `links` and `events` there are."""
    key: str
    call: str
    """Of calls.lua, with the `values` that it takes."""
    values: Mapping[str, str] = field(default_factory=dict)
