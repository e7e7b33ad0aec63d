"""The calls of the route table: each with its name, its room and its description."""

import inspect
import re
import sys
from collections.abc import Iterable, Iterator
from typing import NamedTuple

from starlette.routing import BaseRoute, Route

from service.edge.calls.endpoint import Endpoint, Path

_parameter = re.compile(r"\{(\w+)\}").findall


class DescribedCall(NamedTuple):
    """One call of the route table."""

    path: str
    method: str
    endpoint: Endpoint

    @property
    def id(self) -> str:
        """Its operationId, by default the handler's class and name."""
        if self.endpoint.published_as is not None:
            return self.endpoint.published_as[1]
        return (
            self.endpoint.handler.__qualname__.rpartition("<locals>.")[2].replace(".", "_").lower()
        )

    @property
    def room(self) -> str:
        """Its tag, by default the package of its handler."""
        if self.endpoint.published_as is not None:
            return self.endpoint.published_as[0]
        return self.endpoint.handler.__module__.split(".")[1]

    @property
    def parameters(self) -> list[str]:
        """The names of the path's parameters."""
        return _parameter(self.path)

    @property
    def description(self) -> str:
        """The handler's docstring."""
        paragraphs = (inspect.getdoc(self.endpoint.handler) or "").split("\n\n")
        return "\n\n".join(paragraph.replace("\n", " ") for paragraph in paragraphs)

    @property
    def summary(self) -> str:
        """The description up to its first punctuation mark."""
        return re.split("[:;,.]", self.description)[0]


def calls_of(routes: Iterable[BaseRoute]) -> Iterator[DescribedCall]:
    """Yield the calls, in the table's order; HEAD and OPTIONS are the same at every path."""
    for route in routes:
        if (
            isinstance(route, Route)
            and route.include_in_schema
            and isinstance(route.endpoint, Path)
        ):
            for method, endpoint in route.endpoint.endpoints.items():
                if method != "HEAD":
                    yield DescribedCall(route.path, method, endpoint)


def room_description(room: str) -> str:
    """Return the first paragraph of a package's docstring."""
    return (inspect.getdoc(sys.modules[f"service.{room}"]) or "").partition("\n\n")[0]
