"""Query parameters, and the pages of lists."""

import difflib
from collections.abc import Collection
from typing import Final, NamedTuple
from urllib.parse import parse_qsl

from service.edge.call import Call
from service.edge.problems import EdgeError, FieldError

DEFAULT_LIMIT: Final = 25
MAX_LIMIT: Final = 100
MAX_PAGE: Final = 1_000_000_000


class Page(NamedTuple):
    """Which part of a list is asked for; pages are counted from 1."""

    number: int
    limit: int

    @property
    def offset(self) -> int:
        """How many rows come before it."""
        return (self.number - 1) * self.limit


def read_query(call: Call, known: Collection[str]) -> dict[str, str]:
    """Return the query's parameters.

    Raises:
        EdgeError: `validation_error`, for one that is unknown, given twice, or not text.
    """
    if not call.query:
        return {}
    try:
        pairs = parse_qsl(
            call.query.decode("ascii"), keep_blank_values=True, errors="strict", max_num_fields=50
        )
    except ValueError:
        raise EdgeError(
            "validation_error", "the query string is not percent-encoded UTF-8"
        ) from None
    errors = []
    values: dict[str, str] = {}
    for name, value in pairs:
        if name not in known:
            nearest = difflib.get_close_matches(name[:100], known, n=1, cutoff=0)[0]
            errors.append(FieldError(name[:100], f"unknown parameter; did you mean `{nearest}`?"))
        elif name in values:
            errors.append(FieldError(name, "is given twice"))
        elif "\0" in value:
            errors.append(FieldError(name, "must not contain NUL"))
        values[name] = value
    if errors:
        raise EdgeError(
            "validation_error", f"{errors[0].field}: {errors[0].message}", errors=errors[:20]
        )
    return values


def read_page(values: dict[str, str]) -> Page:
    """Return the page that `page` and `limit` ask for.

    Raises:
        EdgeError: `validation_error`, naming the one that is no number or out of range.
    """
    errors: list[FieldError] = []
    page = Page(
        _number(values, "page", 1, MAX_PAGE, errors),
        _number(values, "limit", DEFAULT_LIMIT, MAX_LIMIT, errors),
    )
    if errors:
        raise EdgeError(
            "validation_error", f"{errors[0].field}: {errors[0].message}", errors=errors
        )
    return page


def _number(
    values: dict[str, str], name: str, default: int, greatest: int, errors: list[FieldError]
) -> int:
    text = values.get(name)
    if text is None:
        return default
    if text.isascii() and text.isdigit() and len(text) < 20 and 1 <= int(text) <= greatest:  # noqa: PLR2004 - before int() gets slow
        return int(text)
    errors.append(FieldError(name, f"has to be a whole number from 1 to {greatest}"))
    return default


def counted(count: int, noun: str, verb: str) -> str:
    """Return "1 link retrieved", "3 links retrieved"."""
    return f"{count} {noun}{'' if count == 1 else 's'} {verb}"
