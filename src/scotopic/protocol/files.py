from __future__ import annotations

import json
import re
import types
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, TypeVar, Union, get_args, get_origin

import yaml
from pydantic import BaseModel, ValidationError

from scotopic.protocol.names import did_you_mean

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from pydantic_core import ErrorDetails

M = TypeVar("M", bound=BaseModel)
Place = tuple[str | int, ...]
"""Keys and list indices from the top of a file to a value."""


class _Loader(yaml.SafeLoader):
    """PyYAML's safe loader with the booleans and numbers of YAML 1.2.

    By YAML 1.1, `off`, `no` and `yes` are booleans, `1e3` is text, `0200` is 128 and `3:20` is 200: each a trap in a
    file about light.
    """

    yaml_implicit_resolvers = {  # noqa: RUF012 - PyYAML's own way
        first: [(tag, pattern) for tag, pattern in resolvers if not tag.endswith((":bool", ":float", ":int"))]
        for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
    }


_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:bool", re.compile(r"^(true|True|TRUE|false|False|FALSE)$"), list("tTfF")
)
_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(r"^([-+]?(\.\d+|\d+\.\d*|\d+(?=[eE]))([eE][-+]?\d+)?|[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN))$"),
    list("-+.0123456789"),
)
_Loader.add_implicit_resolver("tag:yaml.org,2002:int", re.compile(r"^[-+]?\d+$"), list("-+0123456789"))
_Loader.add_constructor("tag:yaml.org,2002:int", lambda loader, node: int(node.value, 10))


@dataclass(frozen=True)
class Problem:
    """One mistake: where it is and what to do."""

    message: str
    file: str = ""
    line: int | None = None
    key: str = ""

    def __str__(self) -> str:
        place = f"{self.file}:{self.line}" if self.file and self.line else self.file
        what = (
            f"{self.key} {self.message}"
            if self.message.startswith(("= ", "is ", "must "))
            else f"{self.key}: {self.message}"
        )
        return ": ".join(part for part in (place, what if self.key else self.message) if part)


class ProblemsError(ValueError):
    """Every mistake found, one line each; the command line prints them and exits with 2."""

    def __init__(self, problems: list[Problem]) -> None:
        super().__init__("\n".join(str(problem) for problem in problems))
        self.problems = tuple(problems)

    def __reduce__(self) -> tuple[type[ProblemsError], tuple[list[Problem]]]:
        """Let it pass from one process to another with its words."""
        return type(self), (list(self.problems),)


def read_model(path: Path, model: type[M]) -> M:
    """Read a protocol or profile from a YAML file.

    Parameters
    ----------
    path : Path
        The file.
    model : type of pydantic model
        `ImagingProtocol` or `MicroscopeProfile`.

    Raises
    ------
    ProblemsError
        With one line for each mistake: file and line, key, value, what is allowed, the nearest valid name.
    """
    text = _read_text(path)
    lines: dict[Place, int] = {}
    try:
        root = yaml.compose(text, Loader=_Loader)
        if not isinstance(root, yaml.MappingNode):
            raise ProblemsError([Problem("must be a list of `key: value` lines", str(path))])
        problems = [Problem(what, str(path), line, _dotted(place)) for place, line, what in _walk(root, (), lines)]
        if any(problem.message == _NO_KEY for problem in problems):
            raise ProblemsError(problems)
        # Through JSON, so that a YAML list is good for a tuple; strict, so that a word is no number.
        data = json.dumps(yaml.load(text, Loader=_Loader), default=str)  # noqa: S506 - a safe loader
    except yaml.MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else None
        raise ProblemsError([Problem(f"is not YAML: {error.problem}", str(path), line)]) from error
    except RecursionError as error:
        raise ProblemsError([Problem("is nested too deeply, or within itself", str(path))]) from error
    except (yaml.YAMLError, ValueError, TypeError) as error:
        if isinstance(error, ProblemsError):
            raise
        raise ProblemsError([Problem(f"is not YAML: {error}", str(path))]) from error
    for key, kind in _TELL_TALE_KEYS.items():
        if key not in model.model_fields and (key,) in lines:
            raise ProblemsError([Problem(f"is a {kind}, not what is wanted here", str(path))])
    try:
        result = model.model_validate_json(data, strict=True, context={"folder": str(path.parent)})
    except ValidationError as error:
        found = json.loads(data)
        problems += [
            _problem(details, model, found, lines, str(path))
            for details in error.errors(include_url=False)
            if not _is_echo(details, found)
        ]
    if problems:
        raise ProblemsError(sorted(problems, key=lambda problem: problem.line or 0))
    return result


_TELL_TALE_KEYS = {"light_levels": "protocol", "light_sources": "microscope profile"}
_NO_KEY = "must be a plain word before the colon"


def _read_text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8-sig")  # Windows editors like to put a byte order mark in front
    except OSError as error:
        raise ProblemsError([Problem(f"cannot be read: {error.strerror}", str(path))]) from error
    except UnicodeDecodeError as error:
        what = f"is not UTF-8 text ({error.reason} at byte {error.start}): save it as UTF-8"
        raise ProblemsError([Problem(what, str(path))]) from error
    except ValueError as error:  # a path that cannot be one
        raise ProblemsError([Problem(f"cannot be read: {error}", repr(str(path)))]) from error


def _walk(node: yaml.Node, place: Place, lines: dict[Place, int]) -> Iterator[tuple[Place, int, str]]:
    """Note the line of every key; yield those that occur twice (PyYAML takes the last without a word) or are none."""
    lines.setdefault(place, node.start_mark.line + 1)
    if isinstance(node, yaml.MappingNode):
        seen = set()
        for key, value in node.value:
            line = key.start_mark.line + 1
            if not isinstance(key, yaml.ScalarNode):
                yield place, line, _NO_KEY
                continue
            inner = (*place, key.value)
            lines[inner] = line
            if key.value in seen:
                yield inner, line, "is given twice"
            seen.add(key.value)
            yield from _walk(value, inner, lines)
    elif isinstance(node, yaml.SequenceNode):
        for i, value in enumerate(node.value):
            yield from _walk(value, (*place, i), lines)


def _problem(
    details: ErrorDetails,
    model: type[BaseModel],
    data: Any,
    lines: dict[Place, int],
    file: str,
) -> Problem:
    place, value = _place_in_file(details, data)
    kind, context = details["type"], details.get("ctx", {})
    key = _dotted(place)
    if kind == "missing":
        message = "is missing"
    elif kind == "extra_forbidden":
        known = sorted(_keys_at(model, details["loc"][:-1]))
        hint = _decimal_point(data, place) or did_you_mean(str(place[-1]), known)
        message = f"is no key here; {hint or 'allowed: ' + ', '.join(known)}"
    elif kind in {"union_tag_invalid", "union_tag_not_found"}:
        field = str(context["discriminator"]).strip("'")
        key = f"{key}.{field}"
        message = _not_allowed(context["tag"], context["expected_tags"]) if "tag" in context else "is missing"
    elif kind == "too_short":
        message = f"must have at least {context['min_length']} entry"
    elif kind == "literal_error":
        message = _not_allowed(value, context["expected"])
    else:
        text = (
            str(context.get("error", details["msg"]))
            .removeprefix("Input ")
            .replace("valid array", "list, as in [a, b]")
        )
        if value is None and kind.endswith("_type"):
            text = f"has no value: fill it in ({text.replace('should be', 'it')})"
        given = "" if isinstance(value, dict | list) or value is None else f"= {_short(value)}: "
        message = f"{given}{text}"
    return Problem(message, file, _line(place, lines), key)


def _decimal_point(data: Any, place: Place) -> str:
    """Return "write 4.5" where a decimal comma within braces, as in `{exposure_ms: 4,5}`, has begun a key of its own."""
    for step in place[:-1]:
        data = data[step]
    keys = list(data)
    number = keys.index(place[-1])
    before = data[keys[number - 1]] if number else None
    is_comma = data[place[-1]] is None and str(place[-1]).isdecimal() and type(before) is int
    return f"write {before}.{place[-1]}" if is_comma else ""


def _not_allowed(value: Any, expected: str) -> str:
    allowed = [name.strip("' ") for name in expected.replace(" or ", ",").split(",")]
    hint = did_you_mean(str(value), allowed)
    return f"= {_short(value)}: allowed: {', '.join(allowed)}" + (f"; {hint}" if hint else "")


def _is_echo(details: ErrorDetails, data: Any) -> bool:
    """Return whether pydantic only repeats that the members of a list are wrong, by calling the list too short."""
    return details["type"] == "too_short" and bool(_place_in_file(details, data)[1])


def _short(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 60 else text[:57] + "..."


def _place_in_file(details: ErrorDetails, data: Any) -> tuple[Place, Any]:
    """Return the path of an error as it stands in the file, and the value there.

    pydantic puts the names of union members between the keys; whatever is no key of the file is one of those,
    but for the last one of a key that is missing.
    """
    place: list[str | int] = []
    steps = details["loc"]
    for i, step in enumerate(steps):
        if isinstance(data, dict) and step in data:
            place.append(step)
            data = data[step]
        elif isinstance(data, list) and isinstance(step, int) and step < len(data):
            place.append(step)
            data = data[step]
        elif details["type"] == "missing" and i == len(steps) - 1:
            place.append(step)
            data = None
        elif isinstance(data, dict) and i == 0:
            place.append(step)  # a default that does not fit what is in the file
            data = None
    return tuple(place), data


def _line(place: Place, lines: dict[Place, int]) -> int | None:
    while place and place not in lines:
        place = place[:-1]
    return lines.get(place)


def _dotted(place: Place) -> str:
    text = ""
    for step in place:
        text += f"[{step}]" if isinstance(step, int) else f".{step}" if text else step
    return text


def _keys_at(model: type[BaseModel], steps: Place) -> set[str]:
    """Return the keys that are allowed at a path of a model, in pydantic's steps (members of unions named)."""
    models = {model}
    for step in steps:
        fields = [outer.model_fields[step] for outer in models if step in outer.model_fields]
        if fields:
            models = {inner for field in fields for inner in _models_in(field.annotation)}
        else:
            models = {m for m in models if _is_member(m, step)} or models
    return {key for m in models for key in m.model_fields}


def _is_member(model: type[BaseModel], tag: str | int) -> bool:
    """Return whether a tag of a union means this model: its name, or a value of its `kind`."""
    return tag == model.__name__ or any(tag in get_args(field.annotation) for field in model.model_fields.values())


def _models_in(annotation: Any) -> set[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return {annotation}
    if get_origin(annotation) is Annotated:
        return _models_in(get_args(annotation)[0])
    if get_origin(annotation) in {Union, types.UnionType, tuple, list, dict}:
        return {m for part in get_args(annotation) for m in _models_in(part)}
    return set()
