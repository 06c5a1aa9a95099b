from __future__ import annotations

import json
import types
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, TypeVar, Union, get_args, get_origin

import yaml
from pydantic import BaseModel, ValidationError

from scotopic.protocol.names import did_you_mean
from scotopic.protocol.yaml_loader import MOST_BYTES, compose, construct

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from pydantic_core import ErrorDetails

M = TypeVar("M", bound=BaseModel)
Place = tuple[str | int, ...]
"""Keys and list indices from the top of a file to a value."""


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
        told = ": ".join(part for part in (place, what if self.key else self.message) if part)
        return told if told.isprintable() else "".join(c if c.isprintable() else repr(c)[1:-1] for c in told)


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
    lines: dict[Place, int] = {}
    data, problems = _read_yaml(path, lines)
    for key, kind in _TELL_TALE_KEYS.items():
        if key not in model.model_fields and (key,) in lines:
            raise ProblemsError([Problem(f"is a {kind}, not what is wanted here", str(path))])
    try:
        result = model.model_validate_json(data, strict=True, context={"folder": str(path.parent)})
    except ValidationError as error:
        found = json.loads(data)
        known = {(problem.line, problem.key) for problem in problems}
        found_wrong = [
            _problem(details, model, found, lines, str(path))
            for details in error.errors(include_url=False)[:_MOST_TOLD]
            if not _is_echo(details, found)
        ]
        problems += [problem for problem in found_wrong if (problem.line, problem.key) not in known]
    if problems:
        raise ProblemsError(sorted(problems, key=lambda problem: problem.line or 0)[:_MOST_TOLD])
    return result


_TELL_TALE_KEYS = {"light_levels": "protocol", "light_sources": "microscope profile"}
_MOST_TOLD = 100
"""Mistakes of one file that are told: with more, it is another kind of file."""
_LONGEST_TOLD = 300
_LARGEST = 1e30
"""Beyond it, and below its inverse, products and quotients overflow."""
_NO_KEY = "must be a plain word before the colon"


def _read_yaml(path: Path, lines: dict[Place, int]) -> tuple[str, list[Problem]]:
    """Return the values of a file as JSON, and its keys that are wrong for any model; note the line of every key.

    Through JSON, so that a YAML list is good for a tuple; strict, so that a word is no number.
    """

    def wrong(message: str, line: int | None = None) -> ProblemsError:
        return ProblemsError([Problem(message[:_LONGEST_TOLD], str(path), line)])

    text = _read_text(path)
    try:
        root = compose(text)
        if not isinstance(root, yaml.MappingNode):
            raise wrong("must be a list of `key: value` lines")
        problems = [Problem(what, str(path), line, _dotted(place)) for place, line, what in _walk(root, (), lines)]
        if any(problem.message == _NO_KEY for problem in problems):
            raise ProblemsError(problems[:_MOST_TOLD])
        data = json.dumps(construct(root), ensure_ascii=False)
        data.encode()  # half a character, as "\ud800" is one, cannot be
    except yaml.MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else None
        raise wrong(f"is not YAML: {error.problem}", line) from error
    except yaml.reader.ReaderError as error:
        told = f"has a character that no text has (number {error.character}): save it as UTF-8 text"
        raise wrong(told, text.count("\n", 0, error.position) + 1) from error
    except RecursionError as error:
        raise wrong("is nested too deeply, or within itself") from error
    except ProblemsError:
        raise
    except (ValueError, OverflowError) as error:
        raise wrong("is not YAML: an escape in it, such as \\ud800, stands for no character") from error
    return data, problems


def _read_text(path: Path) -> str:
    try:
        with path.open("rb") as file:
            content = file.read(MOST_BYTES + 1)
        if len(content) > MOST_BYTES:
            told = f"is larger than {MOST_BYTES / 1e6:g} MB: no protocol or profile is"
            raise ProblemsError([Problem(told, str(path))])
        return content.decode("utf-8-sig")  # Windows editors like to put a byte order mark in front
    except OSError as error:
        raise ProblemsError([Problem(f"cannot be read: {error.strerror}", str(path))]) from error
    except UnicodeDecodeError as error:
        what = f"is not UTF-8 text ({error.reason} at byte {error.start}): save it as UTF-8"
        raise ProblemsError([Problem(what, str(path))]) from error
    except ProblemsError:
        raise
    except ValueError as error:  # a path that cannot be one
        raise ProblemsError([Problem(f"cannot be read: {error}", repr(str(path)))]) from error


def _walk(node: yaml.Node, place: Place, lines: dict[Place, int]) -> Iterator[tuple[Place, int, str]]:
    """Note the line of every key; yield keys that occur twice or are none, and numbers with which nothing can be reckoned."""
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
            if key.value in seen:  # PyYAML takes the last without a word
                yield inner, line, "is given twice"
            seen.add(key.value)
            yield from _walk(value, inner, lines)
    elif isinstance(node, yaml.SequenceNode):
        for i, value in enumerate(node.value):
            yield from _walk(value, (*place, i), lines)
    elif node.tag.endswith((":int", ":float")) and "n" not in node.value.lower():  # but for .inf and .nan
        size = abs(float(node.value))
        if size > _LARGEST or 0 < size < 1 / _LARGEST:
            allowed = f"allowed: 0, and from {1 / _LARGEST:g} to {_LARGEST:g} with either sign"
            yield place, node.start_mark.line + 1, f"= {_clipped(node.value)}: {allowed}"


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
    return _clipped(json.dumps(value, ensure_ascii=False))


def _clipped(text: str) -> str:
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
    return text[:_LONGEST_TOLD]


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
