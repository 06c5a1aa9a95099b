"""Profiles changed where they stand: comments, order and everything else in them stay."""

from __future__ import annotations

import io
import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from scotopic.protocol import MicroscopeProfile, read_model
from scotopic.store.files import replace_text

if TYPE_CHECKING:
    from pathlib import Path

    from scotopic.photons import CameraMaps


@dataclass(frozen=True)
class Measured:
    """What a calibration has found: the values of the profile that it determines, and what else there is to know."""

    what: str
    """Kind of calibration, as in `Calibrations`."""
    channel: str | None
    values: dict[tuple[str, ...], Any]
    """Key in the profile -> number, list of numbers, list of mappings, or mapping."""
    more: dict[str, float]
    """Further figures."""
    spread: dict[str, float]
    """Standard errors."""
    record: dict[str, Any] = field(default_factory=dict)
    """What the figures come from, for the record alone."""
    maps: CameraMaps | None = None
    """Maps of the camera's pixels, a file of the record."""

    @property
    def numbers(self) -> dict[str, float]:
        """All plain numbers, by name."""
        plain = {".".join(key): value for key, value in self.values.items() if isinstance(value, int | float)}
        return plain | self.more


def edit_profile(path: Path, measured: Measured, date: str, record: str) -> dict[str, Any]:
    """Change values of a profile where they stand, with a comment that says when they were measured; return those before.

    All other lines, comments included, stay. The new text is read as a profile before it takes the place of the old one.

    Parameters
    ----------
    date : str
        When it was measured, ISO 8601.
    record : str
        Folder of the record, relative to the profile.

    Raises
    ------
    ProblemsError
        If the values make no profile; it is as it was.
    """
    from ruamel.yaml import YAML

    yaml = YAML()
    yaml.preserve_quotes, yaml.width = True, 10_000
    yaml.indent(mapping=2, sequence=4, offset=2)
    root = yaml.load(path.read_text(encoding="utf-8"))
    before: dict[str, Any] = {}
    for key, value in measured.values.items():
        *outer, last = key
        inner = root
        for part in outer:
            inner = inner.setdefault(part, {})
        old = inner.get(last)
        if old is not None:
            before[".".join(key)] = _as_plain(old)
        if last in inner or not inner:
            inner[last] = _as_yaml(value)
        else:  # before the last key, to which the blank lines below belong
            inner.insert(len(inner) - 1, last, _as_yaml(value))
        if isinstance(value, int | float):
            told = f"measured {date[:10]}" + (f", before: {old:g}" if old is not None else "")
            _add_comment(inner, last, told)
    entry = {
        "date": date,
        "values": _rounded(measured.numbers),
        "spread": _rounded(measured.spread),
        "before": _rounded({name: value for name, value in before.items() if isinstance(value, int | float)}),
        "record": record,
    }
    calibrations = root.setdefault("calibrations", {})
    if measured.channel is None:
        calibrations[measured.what] = entry
    else:
        calibrations.setdefault(measured.what, {})[measured.channel] = entry
    stream = io.StringIO()
    yaml.dump(root, stream)
    tried = path.with_name(
        f".{path.name}.partial"
    )  # beside it: what is named relative to a profile is found from there
    tried.write_text(stream.getvalue(), encoding="utf-8")
    try:
        read_model(tried, MicroscopeProfile)
    finally:
        tried.unlink()
    replace_text(path, stream.getvalue())
    return before


def _add_comment(mapping: Any, key: str, told: str) -> None:
    """Say behind a value how it came; what its user had written there, and the lines below, stay."""
    there = mapping.ca.items.get(key)
    text = there[2].value if there and there[2] else ""
    first, *below = text.split("\n", 1)
    own = first.lstrip("# ").split("; measured ")[0]
    own = "" if own.startswith("measured ") else own
    mapping.yaml_add_eol_comment(f"{own}; {told}" if own else told, key)
    if below and below[0]:
        mapping.ca.items[key][2].value += "\n" + below[0]


def _as_yaml(value: Any) -> Any:
    """Return a value as it is to be written: what holds only numbers in one line, everything else a line each."""
    from ruamel.yaml.comments import CommentedMap, CommentedSeq

    if not isinstance(value, list | dict):
        return value
    node: Any
    if isinstance(value, dict):
        node = CommentedMap((key, _as_yaml(inner)) for key, inner in value.items())
    else:
        node = CommentedSeq(_as_yaml(inner) for inner in value)
    is_plain = not any(
        isinstance(inner, list | dict) for inner in (value.values() if isinstance(value, dict) else value)
    )
    if is_plain:
        node.fa.set_flow_style()
    return node


def _as_plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {str(key): _as_plain(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [_as_plain(inner) for inner in value]
    return float(value) if isinstance(value, int | float) else value


def _rounded(numbers: dict[str, float]) -> dict[str, float]:
    return {name: float(f"{value:.6g}") for name, value in numbers.items() if not math.isnan(value)}
