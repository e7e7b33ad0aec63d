"""The errors with which a call can be answered, from its endpoint and from the table of error codes."""

from typing import Final

from service.described.examples import problem_example
from service.described.headers import OF_A_KEY, references
from service.described.schemas import Schema
from service.edge.calls.endpoint import WRITE, Endpoint
from service.edge.calls.problems import CODES, title_of

WITHOUT_KEY: Final = "_without_key"
"""Suffix of the problems of paths that need no key: their responses have no headers with the quota."""


def problem_references(endpoint: Endpoint) -> Schema:
    """Return the problems with which a call can be answered, by status."""
    suffix = WITHOUT_KEY if endpoint.scope is None else ""
    declared = {refusal.code for refusal in endpoint.refusals}
    occurs = {
        "any call": True,
        "with a key": endpoint.scope is not None,
        "with a body": endpoint.body is not None,
        "a write": endpoint.scope == WRITE,
        "if declared": False,
    }
    return {
        str(code.status): {"$ref": f"#/components/responses/{name}{suffix}"}
        for name, code in CODES.items()
        if occurs[code.when] or name in declared
    }


def problem_responses() -> Schema:
    """Return all responses that are problems, by name."""
    keyed = {name: _response(name, keyed=True) for name in CODES}
    public = [name for name, code in CODES.items() if code.when == "any call"]
    return keyed | {
        f"{name}{WITHOUT_KEY}": _response(name, keyed=False) for name in (*public, "not_found")
    }


def _response(name: str, *, keyed: bool) -> Schema:
    code = CODES[name]
    quota = OF_A_KEY if keyed and not code.before_key else ()
    return {
        "description": f"{title_of(code.status)}: `{name}`. {code.meaning}",
        "headers": references("X-Request-ID", *quota, *code.headers),
        "content": {
            "application/problem+json": {
                "schema": {"$ref": "#/components/schemas/Problem"},
                "examples": {name: {"value": problem_example(name)}},
            }
        },
    }
