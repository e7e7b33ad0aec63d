"""Reads settings from the environment. Both programs have the same file.

The settings of a program are a msgspec Struct whose fields are encoded under the names of their
variables. The type of a field says which values it takes. Functions in its annotation check more, and
raise ValueError. Every problem is a line `NAME: what is wrong`, without the value: it may be a secret.
"""

import difflib
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, Final, TypeVar, get_args

import msgspec
from msgspec import Meta, Struct

SIMILAR: Final = 0.85
"""From this difflib ratio on, a variable without the program's prefix counts as a misspelt setting.

KAFKA_SASL_USER has 0.88 with a setting; KAFKA_SSL_KEYSTORE_LOCATION, of Kafka's tools, 0.73 at most.
"""

_service_link = re.compile(
    r"\w+_("
    r"SERVICE_(HOST|PORT(_\w+)?)="
    r"|PORT(_\d+_(TCP|UDP|SCTP))?=(tcp|udp|sctp)://"
    r"|PORT_\d+_(TCP|UDP|SCTP)_(PROTO|PORT|ADDR)="
    r"|NAME=/|ENV_\w+="
    r")"
).match
"""Matches `name=value` of the variables that Kubernetes and Docker set for each other service.

For a service named `links` they set LINKS_PORT=tcp://10.0.0.1:8080, which is not the setting.
"""

S = TypeVar("S", bound=Struct)
Given = Mapping[str, str]


class SettingsError(Exception):
    """The environment cannot be used. The text has a line for each problem."""


def read_settings(
    kind: type[S],
    prefix: str,
    environment: Given,
    check_together: Callable[[Given], Iterable[str]] = lambda _: (),
) -> S:
    """Return the settings in an environment, in which an empty variable counts as absent.

    `prefix` is the program's own: an unknown variable that begins with it is an error.
    `check_together` returns the problems of the given variables with each other.

    Raises:
        SettingsError: a variable is missing, unknown, or has a value that it does not take.
    """
    environment = {n: v for n, v in environment.items() if not _service_link(f"{n}={v}")}
    fields = {field.encode_name: field for field in msgspec.structs.fields(kind)}
    given = {name: environment[name] for name in fields if environment.get(name)}
    problems = list(_unknown(environment, fields, prefix))
    for name, field in fields.items():
        if name in given:
            problems += [f"{name}: {problem}" for problem in _problems(given[name], field.type)]
        elif field.required:
            problems.append(f"{name}: missing variable")
    problems += check_together(given)
    if problems:
        raise SettingsError("\n".join(problems))
    return msgspec.convert(given, kind, strict=False)


def _unknown(environment: Given, known: Iterable[str], prefix: str) -> Iterator[str]:
    """Yield a line for each unknown variable that has the prefix or is nearly the name of a setting.

    A variable without the prefix may be for another program. It is taken for a misspelt setting only
    if that setting is absent, begins with the same word and is similar.
    """
    absent = [name for name in known if name not in environment and not name.startswith(prefix)]
    for name in sorted(environment.keys() - set(known)):
        own = name.startswith(prefix)
        word = name.partition("_")[0]
        candidates = known if own else [each for each in absent if each.startswith(f"{word}_")]
        cutoff = 0 if own else SIMILAR
        for nearest in difflib.get_close_matches(name, candidates, n=1, cutoff=cutoff):
            yield f"{name}: unknown variable; did you mean {nearest}?"


def _problems(value: str, kind: Any) -> Iterator[str]:  # noqa: ANN401 - any type a field may have
    """Yield what is wrong with the value of one variable, in the words of its type or its checks."""
    try:
        if msgspec.convert(value, kind, strict=False) is None:  # msgspec reads "null" so
            yield f"not {_words(kind)}"
            return
        for check in filter(callable, getattr(kind, "__metadata__", ())):
            check(value)
    except msgspec.ValidationError:
        yield f"not {_words(kind)}"
    except ValueError as error:
        yield str(error)


def _words(kind: Any) -> str:  # noqa: ANN401 - any type a field may have
    """Return which values a type takes: a Literal's, a range of numbers, or its own description."""
    base, *more = get_args(kind)
    if type(None) in more:  # the setting may be absent
        return _words(base)
    if isinstance(base, str):
        return f"one of {', '.join(map(str, get_args(kind)))}"
    meta: Meta = more[0]
    if meta.description:
        return meta.description
    bounds = f"from {meta.ge} to" if meta.gt is None else f"above {meta.gt}, up to"
    return f"a {'whole ' if base is int else ''}number {bounds} {meta.le}"
