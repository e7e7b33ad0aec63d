"""The calls of the route table, each with its name, its tag and its description."""

import inspect
import re
import sys
from collections.abc import Iterable, Iterator
from typing import NamedTuple, cast

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
        name = self.endpoint.handler.__qualname__.rpartition("<locals>.")[2]
        return name.replace(".", "_").lower()

    @property
    def tag(self) -> str:
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
    """Yield the calls in the table's order, without HEAD and OPTIONS."""
    for route in routes:
        if not isinstance(route, Route) or not route.include_in_schema:
            continue
        path = cast("Path", route.endpoint)
        for method, endpoint in path.endpoints.items():
            if method != "HEAD":
                yield DescribedCall(route.path, method, endpoint)


def tag_description(tag: str) -> str:
    """Return the first paragraph of the docstring of the tag's package."""
    return (inspect.getdoc(sys.modules[f"service.{tag}"]) or "").partition("\n\n")[0]
